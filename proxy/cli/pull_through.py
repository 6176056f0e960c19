"""The commands about pull-through caches: the secrets that rules log in with, and the rules.

`proxy.admin` does the work; it is imported on first use.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import click

from proxy.cli.options import checked, load, shared


def _twelve_digits(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if value and not re.fullmatch("[0-9]{12}", value, re.ASCII):
        raise click.BadParameter(f"an account is 12 digits, such as 210987654321, not {value[:64]!r}")
    return value


_account = click.option(
    "--account", metavar="ACCOUNT", default="", callback=_twelve_digits, help="12 digits.  [the default account]"
)


@click.group()
def secret() -> None:
    """The secrets that pull-through cache rules log in with."""


@secret.command()
@shared
@_account
@click.argument("name", metavar="NAME")
@click.option("--username", metavar="USER", required=True, help="Of the upstream registry.")
@click.option("--password-stdin", is_flag=True, help="Take the password or token from standard input.")
def put(file: Path | None, data: str | None, account: str, name: str, username: str, password_stdin: bool) -> None:
    """Keep a user name with a password or token, sealed, and print the ARN that a rule names as its credential.

    NAME begins with ecr-pullthroughcache/, which is put before it where it is missing. A secret that is there gets the
    new value, which counts from the next login on. Without --password-stdin the password is asked for. Works while the
    server runs, and when it does not.

    \b
    Examples:
      wharfage secret put docker-hub --username me
      printf %s "$TOKEN" | wharfage secret put docker-hub --username me --password-stdin --data /srv/wharfage
    """
    from proxy.admin import secrets

    password = (
        sys.stdin.read().rstrip("\r\n") if password_stdin else click.prompt("Password", hide_input=True, err=True)
    )
    click.echo(checked(lambda: secrets.put(load(file, data, {}), account, name, username, password)))


@secret.command("list")
@shared
@_account
def list_secrets(file: Path | None, data: str | None, account: str) -> None:
    """Print the secrets of an account as JSON, with the rules that log in with each; never a value.

    \b
    Example:
      wharfage secret list --data /srv/wharfage
    """
    from proxy.admin import secrets

    click.echo(json.dumps(checked(lambda: secrets.listed(load(file, data, {}), account)), indent=1))


@secret.command()
@shared
@_account
@click.argument("name", metavar="NAME")
def remove(file: Path | None, data: str | None, account: str, name: str) -> None:
    """Delete a secret for good, and print its ARN. One that a rule logs in with is refused.

    NAME is its name, with or without ecr-pullthroughcache/, or its ARN.

    \b
    Example:
      wharfage secret remove docker-hub --data /srv/wharfage
    """
    from proxy.admin import secrets

    click.echo(checked(lambda: secrets.remove(load(file, data, {}), account, name)))


@click.group("pull-through")
def pull_through() -> None:
    """Images of other registries, pulled through rules."""


@pull_through.command("list")
@shared
@click.option("--account", metavar="ACCOUNT", default="", callback=_twelve_digits, help="12 digits.  [all accounts]")
def list_rules(file: Path | None, data: str | None, account: str) -> None:
    """Print the rules of all accounts, or of one, as JSON: prefix, upstream, secret and role.

    \b
    Example:
      wharfage pull-through list --data /srv/wharfage | jq -r '.[] | [.prefix, .upstream] | @tsv'
    """
    from proxy.admin import secrets

    click.echo(json.dumps(checked(lambda: secrets.rules(load(file, data, {}), account)), indent=1))


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


@click.command()
@shared
@_account
@click.argument("references", metavar="REPO:TAG...", nargs=-1, required=True)
def refresh(file: Path | None, data: str | None, account: str, references: tuple[str, ...]) -> None:
    """Ask the upstream now what tags under pull-through cache rules are for, and import what is new.

    REPO:TAG is the name here. Works while the server runs, and when it does not. Exit status: 0 when the upstream was
    asked about all of them, 1 when it could not be, or a tag was pushed here and is not the upstream's.

    \b
    Example:
      wharfage refresh docker-hub/library/alpine:3 --data /srv/wharfage
    """
    from proxy.admin import pull_through as admin

    found = load(file, data, {})
    sys.exit(checked(lambda: admin.refresh(found, references, account=account, say=click.echo)))


COMMANDS: tuple[click.Command, ...] = (secret, pull_through, refresh)
"""For `main`."""
