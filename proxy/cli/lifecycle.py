"""The commands about lifecycle policies. What they do is in `admin.lifecycle`, which is loaded when it is needed."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path

import click

from proxy.cli.options import checked, load, shared


def _account(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch("[0-9]{12}", value, re.ASCII):
        raise click.BadParameter(f"an account is 12 digits, such as 210987654321, not {value[:64]!r}")
    return value


@click.group()
def lifecycle() -> None:
    """Lifecycle policies: what the registry does with images as they grow old."""


@lifecycle.command()
@shared
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--account", metavar="ACCOUNT", callback=_account, help="Whose repository.  [the default account]")
@click.argument("repository", metavar="REPO")
def run(file: Path | None, data: str | None, dry_run: bool, account: str | None, repository: str) -> None:
    """Carry out the lifecycle policy of REPO now, rather than at the next turn.

    Prints one line an image: what was done, its digest, and the priority of the rule that decided. Works while the
    server runs, and when it does not. Exit status 1 where there is no policy.

    \b
    Examples:
      wharfage lifecycle run team/app --dry-run
      wharfage lifecycle run team/app --data /srv/wharfage
    """
    from proxy.admin import lifecycle as work

    found = load(file, data, {})
    whose = account or found.registry.account
    hint = partial(click.echo, err=True)
    sys.exit(checked(lambda: work.run(found, whose, repository, dry_run=dry_run, say=click.echo, hint=hint)))


COMMANDS = (lifecycle,)
