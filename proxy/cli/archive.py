"""The command about the archive. What it does is in `admin.archive`, which is loaded when it is needed."""

from __future__ import annotations

from pathlib import Path

import click

from proxy.cli.options import checked, load, shared


@click.group()
def archive() -> None:
    """The archive: layers that archived images alone use."""


@archive.command()
@shared
@click.option("--limit", metavar="N", type=click.IntRange(1, 100_000), default=1000, help="Images named.  [1000]")
def status(file: Path | None, data: str | None, limit: int) -> None:
    """Print what is in the archive, and a line for each image that is being restored: how far it is.

    \b
    Examples:
      wharfage archive status --data /srv/wharfage
      watch wharfage archive status
    """
    from proxy.admin import archive as admin

    for line in checked(lambda: admin.status(load(file, data, {}), limit)):
        click.echo(line)


COMMANDS = (archive,)
