"""`python -m proxy` is `wharfage`."""

from proxy.cli import main

main(prog_name="wharfage")
