"""The commands about accounts, and about who may do what: account, whoami, policy, credentials, revoke.

`proxy.admin` does the work; it is imported on first use.
"""

from __future__ import annotations

import json
import re
import sys
from functools import partial
from pathlib import Path

import click

from proxy.cli.options import checked, load, shared


def _twelve_digits(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not re.fullmatch("[0-9]{12}", value, re.ASCII):
        raise click.BadParameter(f"an account is 12 digits, such as 210987654321, not {value[:64]!r}")
    return value


_account = click.argument("number", metavar="ACCOUNT", callback=_twelve_digits)


@click.group()
def account() -> None:
    """The accounts of this installation: each has a registry, users, roles and policies of its own."""


@account.command()
@shared
@_account
def create(file: Path | None, data: str | None, number: str) -> None:
    """Open an account, and print the key of its administrator: a user of that name with AdministratorAccess.

    ACCOUNT is 12 digits of your choice. The secret is shown only once. Works while the server runs, and when it does
    not. How docker reaches the account is said on standard error.

    \b
    Examples:
      wharfage account create 210987654321
      wharfage account create 210987654321 --data /srv/wharfage | jq -r .secret_access_key
    """
    from proxy.admin import accounts

    found = load(file, data, {})
    click.echo(json.dumps(checked(lambda: accounts.create(found, number, hint=partial(click.echo, err=True)))))


@account.command("list")
@shared
def list_accounts(file: Path | None, data: str | None) -> None:
    """Print all accounts as JSON, closed ones too.

    \b
    Example:
      wharfage account list --data /srv/wharfage
    """
    from proxy.admin import accounts

    click.echo(json.dumps(checked(lambda: accounts.listed(load(file, data, {}))), indent=1))


@account.command()
@shared
@_account
def close(file: Path | None, data: str | None, number: str) -> None:
    """Close an account for good: from the next request on nothing of it is served, and its keys and tokens are refused.

    What it stored stays in rows and store. Its number is not given out again. The default account, whose registry a
    bare host is, cannot be closed.

    \b
    Example:
      wharfage account close 210987654321 --data /srv/wharfage
    """
    from proxy.admin import accounts

    click.echo(json.dumps(checked(lambda: accounts.close(load(file, data, {}), number))))


@click.command()
@shared
@click.option("--profile", metavar="NAME", help="A profile of AWS's own files, instead.")
def whoami(file: Path | None, data: str | None, profile: str | None) -> None:
    """Print whose credentials these are, as the running server sees it: account, ARN and user id.

    They are those of the settings, else of the environment (AWS_ACCESS_KEY_ID …), else the data directory's.

    \b
    Examples:
      wharfage whoami --data /srv/wharfage
      AWS_ACCESS_KEY_ID=AKIA... AWS_SECRET_ACCESS_KEY=... wharfage whoami
    """
    from proxy.admin import accounts

    click.echo(json.dumps(checked(lambda: accounts.whoami(load(file, data, {}), profile))))


@click.group()
def policy() -> None:
    """What policies allow and deny."""


def _pairs(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for value in values:
        key, equals, given = value.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{value[:64]!r} is not KEY=VALUE, such as aws:SourceIp=192.0.2.7")
        found.setdefault(key, []).append(given)
    return found


@policy.command()
@shared
@click.option("--principal", metavar="ARN", required=True, help="A user, a role, its session, or an account's root.")
@click.option("--action", metavar="NAME", required=True, help="Such as ecr:PutImage.")
@click.option("--resource", metavar="ARN", default="*", help="What it is done to.  [*]")
@click.option(
    "--context", metavar="KEY=VALUE", multiple=True, callback=_pairs, help="A condition key; again for another value."
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def explain(
    file: Path | None,
    data: str | None,
    principal: str,
    action: str,
    resource: str,
    context: dict[str, list[str]],
    as_json: bool,
) -> None:
    """Say whether a principal may do something, which statement of which policy decided, and why each other did not.

    Looked at are the policies of this moment: the principal's own and its groups', its boundary, the repository's and
    the registry's; for sts:AssumeRole the role's trust policy. A role's session is taken to be one that nothing
    narrows. Keys that a request brings (aws:SourceIp, aws:RequestTag/…) are absent unless --context gives them; the
    connection is taken to be TLS.

    Exit status: 0 allowed, 1 denied, 2 it could not be asked so.

    \b
    Examples:
      wharfage policy explain --principal arn:aws:iam::123456789012:user/ci --action ecr:PutImage \\
        --resource arn:aws:ecr:us-east-1:123456789012:repository/team/app
      wharfage policy explain --principal arn:aws:sts::123456789012:assumed-role/node/i-1 --action ecr:BatchGetImage \\
        --resource arn:aws:ecr:us-east-1:123456789012:repository/team/app --context aws:SourceIp=192.0.2.7 --json
    """
    from proxy.admin import explain as explaining

    found = load(file, data, {})
    explained = checked(lambda: explaining.explain(found, principal, action, resource, context), failed=2)
    click.echo(json.dumps(explaining.as_document(explained), indent=1) if as_json else explaining.as_text(explained))
    sys.exit(0 if explained.explanation.decision.allowed else 1)


@click.group()
def credentials() -> None:
    """The access keys: which there are, and the administrator's own."""


@credentials.command()
@shared
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def report(file: Path | None, data: str | None, as_json: bool) -> None:
    """List every access key of every account: whose it is, its age, status and last use, and the policies it acts by.

    Keys that [identity] key_days will end within 14 days are named on standard error. Works while the server runs, and
    when it does not.

    \b
    Examples:
      wharfage credentials report --data /srv/wharfage
      wharfage credentials report --json | jq -r '.[] | select(.last_used == null) | .access_key_id'
    """
    from proxy.admin import credentials as keys

    found = checked(lambda: keys.report(load(file, data, {}), warn=partial(click.echo, err=True)))
    click.echo(json.dumps(found, indent=1) if as_json else keys.as_table(found))


@credentials.command()
@shared
def rotate(file: Path | None, data: str | None) -> None:
    """Make a new key for the administrator, write it to DATA/credentials, and delete the one that was there.

    Passwords for docker that were made with the old key end with it. A key that WHARFAGE_ACCESS_KEY_ID gives is changed
    there instead.

    \b
    Example:
      wharfage credentials rotate --data /srv/wharfage
    """
    from proxy.admin import credentials as keys

    click.echo(json.dumps(checked(lambda: keys.rotate(load(file, data, {})))))


@click.command()
@shared
@click.argument("principal", metavar="PRINCIPAL")
def revoke(file: Path | None, data: str | None, principal: str) -> None:
    """End all that a principal holds: from the next request on, on every node, none of it is taken any more.

    PRINCIPAL is the ARN of a user, a role, an account's root, or of a role's session. Access keys are made inactive;
    sessions, passwords for docker and links to layers that were issued before are refused. What is issued afterwards
    counts: an access key that somebody makes active again, a role that is taken again. Policies stay as they are.

    \b
    Examples:
      wharfage revoke arn:aws:iam::123456789012:user/ci
      wharfage revoke arn:aws:sts::123456789012:assumed-role/node/i-0123 --data /srv/wharfage
    """
    from proxy.admin import credentials as keys

    found = load(file, data, {})
    click.echo(json.dumps(checked(lambda: keys.revoke(found, principal, hint=partial(click.echo, err=True)))))


COMMANDS: tuple[click.Command, ...] = (account, whoami, policy, credentials, revoke)
"""For `cli`."""
