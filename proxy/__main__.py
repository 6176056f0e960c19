"""`python -m proxy` is `wharfage`."""

from proxy.cli.main import main

main(prog_name="wharfage")
