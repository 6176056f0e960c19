"""The commands about events: events secret. What it does is in `admin.event_secrets`."""

from __future__ import annotations

import re
from pathlib import Path

import click

from proxy.cli.options import checked, load, shared


def _twelve_digits(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch("[0-9]{12}", value, re.ASCII):
        raise click.BadParameter(f"an account is 12 digits, such as 210987654321, not {value[:64]!r}")
    return value


@click.group()
def events() -> None:
    """Events to webhooks: the secret that signs them."""


@events.command()
@shared
@click.option("--account", metavar="ACCOUNT", callback=_twelve_digits, help="Whose.  [the default account]")
@click.option("--rotate", is_flag=True, help="Make a new one; the old one signs as well for --keep-hours.")
@click.option("--keep-hours", metavar="N", type=click.FloatRange(0, 8760), default=24.0, help="With --rotate.  [24]")
def secret(file: Path | None, data: str | None, account: str | None, rotate: bool, keep_hours: float) -> None:
    """Print the secret that an account's events to webhooks are signed with, and make it if there is none.

    Each request has X-Wharfage-Timestamp and X-Wharfage-Signature: v1=HEX, an HMAC-SHA256 with this secret over
    timestamp, a full stop and body.

    \b
    Examples:
      wharfage events secret --data /srv/wharfage
      wharfage events secret --account 210987654321 --rotate --keep-hours 48
    """
    from proxy.admin import event_secrets

    click.echo(checked(lambda: event_secrets.secret(load(file, data, {}), account, rotate, keep_hours * 3600)))


COMMANDS = (events,)
