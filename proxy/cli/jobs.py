"""The commands about the durable queue: jobs list, retry, drop. What they do is in `admin.queued`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from proxy.cli.options import checked, load, shared


@click.group()
def jobs() -> None:
    """The queue of background work: what waits, what is being tried again, what is given up."""


def _chosen(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.argument("ids", metavar="[ID]...", nargs=-1, type=int),
        click.option("--dead", "all_dead", is_flag=True, help="All that are given up, of --kind and --account."),
        click.option("--account", metavar="ACCOUNT", default="", help="With --dead: of this account only."),
        click.option("--kind", metavar="KIND", default="", help="With --dead: of this kind only."),
    ):
        function = option(function)
    return function


@jobs.command("list")
@shared
@click.option("--kind", metavar="KIND", default="", help="Of this kind only, such as event.")
@click.option("--account", metavar="ACCOUNT", default="", help="Of this account only.")
@click.option("--dead", is_flag=True, help="Only what is given up.")
@click.option("--limit", metavar="N", type=click.IntRange(1, 1_000_000), default=1000, help="At most.  [1000]")
def list_jobs(file: Path | None, data: str | None, kind: str, account: str, dead: bool, limit: int) -> None:
    """Print jobs by id, one JSON object a line: kind, subject, attempts, when it is due, the last error.

    \b
    Examples:
      wharfage jobs list --data /srv/wharfage
      wharfage jobs list --dead --kind event | jq -r .error | sort | uniq -c
    """
    from proxy.admin import queued

    for job in checked(lambda: queued.listed(load(file, data, {}), kind, account, dead or None, limit)):
        click.echo(json.dumps(job))


@jobs.command()
@shared
@_chosen
def retry(file: Path | None, data: str | None, ids: tuple[int, ...], all_dead: bool, account: str, kind: str) -> None:
    """Try jobs again now, with their attempts forgotten. Prints how many there were.

    \b
    Examples:
      wharfage jobs retry 17 18
      wharfage jobs retry --dead --kind event
    """
    from proxy.admin import queued

    _need(ids, all_dead)
    click.echo(checked(lambda: queued.retried(load(file, data, {}), ids, kind, account)))


@jobs.command()
@shared
@_chosen
def drop(file: Path | None, data: str | None, ids: tuple[int, ...], all_dead: bool, account: str, kind: str) -> None:
    """Remove jobs for good: what they were to do is not done. Prints how many there were.

    \b
    Examples:
      wharfage jobs drop 17
      wharfage jobs drop --dead --kind event --account 210987654321
    """
    from proxy.admin import queued

    _need(ids, all_dead)
    click.echo(checked(lambda: queued.dropped(load(file, data, {}), ids, kind, account)))


def _need(ids: tuple[int, ...], all_dead: bool) -> None:
    if bool(ids) == all_dead:
        raise click.UsageError("name jobs by their ids, or take --dead for all that are given up")


COMMANDS = (jobs,)
