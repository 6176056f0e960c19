"""The commands about pull-through caches."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from proxy.cli.options import checked, load, shared


@click.group("pull-through")
def pull_through() -> None:
    """Images of other registries, pulled through rules."""


@pull_through.command("test")
@shared
@click.argument("rule")
@click.argument("image")
@click.option("--account", metavar="ID", default="", help="Whose rule it is.  [the default account]")
def test(file: Path | None, data: str | None, rule: str, image: str, account: str) -> None:
    """Ask the upstream of RULE for IMAGE, by its name there, and show each step with its time.

    RULE is the rule's prefix. Login, token, manifest and the first byte of a layer are asked for as a pull asks for
    them; nothing is kept. Exit status: 0 when all steps succeed, 1 when one fails.

    \b
    Examples:
      wharfage pull-through test docker-hub library/alpine:3
      wharfage pull-through test partner team/app@sha256:...
    """
    from proxy.admin import pull_through as admin

    found = load(file, data, {})
    sys.exit(checked(lambda: admin.test(found, rule, image, account=account, say=click.echo)))
