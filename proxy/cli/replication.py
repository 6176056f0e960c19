"""The command about replication: replication status. What it does is in `admin.replication`."""

from __future__ import annotations

from pathlib import Path

import click

from proxy.cli.options import checked, load, shared


@click.group()
def replication() -> None:
    """Replication to other registries: what waits."""


@replication.command()
@shared
def status(file: Path | None, data: str | None) -> None:
    """Print a line a region: how many images and deletions wait to be replicated, and the oldest's age in seconds.

    \b
    Example:
      wharfage replication status --data /srv/wharfage
    """
    from proxy.admin import replication as admin

    backlogs, now = checked(lambda: admin.backlog(load(file, data, {})))
    for each in backlogs:
        click.echo(f"{each.region}\twaiting {each.waiting}\toldest {max(0.0, now - each.oldest):.0f} s")


COMMANDS = (replication,)
