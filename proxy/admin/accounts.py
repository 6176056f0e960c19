"""account create, list and close; and whoami: whose credentials these are."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from proxy.admin.access import administrator_key
from proxy.admin.audit_trail import audited
from proxy.admin.session import CommandRefused, Say, existing, visiting
from proxy.app.context import WorkerContext
from proxy.app.router import hosts_of, public_address
from proxy.auth import secrets
from proxy.config.settings import Config
from proxy.metadata.operations.accounts import ADMINISTRATOR
from proxy.model.errors import Code, Failure
from proxy.model.hosts import port_of
from proxy.model.identity import Account
from proxy.runtime import data_directory
from proxy.runtime.data_directory import DataDirectory


def create(config: Config, account: str, *, hint: Say) -> dict[str, Any]:
    """Create an account and return its administrator's key, shown only once. `hint` gets how docker reaches it."""

    async def run(own: WorkerContext) -> dict[str, Any]:
        await own.agreement.begin(moving=True)
        key_id, secret = data_directory.new_access_key()
        sealed = secrets.seal_secret(own.agreement.sealer(secrets.PURPOSE), key_id, secret)
        try:
            made = await own.metadata.create_account(account, key_id, sealed, ADMINISTRATOR)
        except Failure as failure:
            if failure.code is Code.ENTITY_ALREADY_EXISTS:
                raise CommandRefused(_why_taken(account, await own.metadata.accounts())) from None
            raise
        return {
            "account": account,
            "administrator": made.arn,
            "access_key_id": key_id,
            "secret_access_key": secret,
        }

    made = asyncio.run(audited(config, account, "CreateAccount", {"account": account}, run))
    hint(_reached(config, account))
    return made


def listed(config: Config) -> list[dict[str, Any]]:
    """All accounts, in order."""

    async def run(own: WorkerContext) -> list[dict[str, Any]]:
        return [_described(config, each) for each in await own.metadata.accounts()]

    return asyncio.run(visiting(config, run))


def close(config: Config, account: str) -> dict[str, Any]:
    """Close an account, for good. `CommandRefused` for the default one, and for one that is not there."""

    async def run(own: WorkerContext) -> dict[str, Any]:
        try:
            return _described(config, await own.metadata.close_account(account))
        except Failure as failure:
            if failure.code is Code.NO_SUCH_ENTITY:
                raise CommandRefused(f"there is no account {account} here; `wharfage account list` names all") from None
            if failure.code is Code.UNMODIFIABLE_ENTITY:
                raise CommandRefused(failure.message) from None
            raise

    return asyncio.run(audited(config, account, "CloseAccount", {"account": account}, run))


def whoami(config: Config, profile: str | None) -> dict[str, str]:
    """What GetCallerIdentity of the running server says to the credentials of this environment, or of the data
    directory. `CommandRefused` where no server runs, there are no credentials, or they do not count."""
    from botocore.client import Config as ClientConfig  # loaded by this command only
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.session import Session

    data = existing(config)
    if not (data_directory.is_locked(data) and data.address.exists()):
        raise CommandRefused(f"no server runs on {data.root} that could answer; `wharfage serve` starts one")
    url = data.address.read_text()
    key = _key(config, data, profile)
    try:
        client = Session(profile=profile).create_client(
            "sts",
            region_name=config.registry.region,
            endpoint_url=url,
            verify=_authority(config, data),
            config=ClientConfig(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2}),
            **key,
        )
        found = client.get_caller_identity()
    except ClientError as error:
        raise CommandRefused(f"the server at {url} does not take these credentials: {error}") from None
    except (BotoCoreError, ssl.SSLError) as error:
        raise CommandRefused(f"the server at {url} was not asked: {error}") from None
    return {"account": found["Account"], "arn": found["Arn"], "user_id": found["UserId"]}


def _key(config: Config, data: DataDirectory, profile: str | None) -> Mapping[str, str]:
    """Of the profile asked for, else the settings, the environment (AWS_ACCESS_KEY_ID …), the data directory."""
    from botocore.credentials import EnvProvider

    if profile is not None:
        return {}
    found = None if config.keys.access_key_id else EnvProvider().load()
    if found is not None:
        return {
            "aws_access_key_id": found.access_key,
            "aws_secret_access_key": found.secret_key,
            **({"aws_session_token": found.token} if found.token else {}),
        }
    key = administrator_key(config, data)
    if key is None:
        raise CommandRefused(
            f"no credentials: {data.credentials} is not there, nor are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY set"
        )
    return {"aws_access_key_id": key[0], "aws_secret_access_key": key[1]}


def _authority(config: Config, data: DataDirectory) -> str | None:
    ca = data.tls / "ca.crt"
    return str(ca) if ca.exists() else config.server.tls_cert or None


def _described(config: Config, account: Account) -> dict[str, Any]:
    return {
        "account": account.account,
        "alias": account.alias,
        "default": account.account == config.registry.account,
        "created": _moment(account.created),
        "closed": None if account.closed is None else _moment(account.closed),
        "bytes": account.bytes,
        "bytes_quota": config.quotas.account_bytes or None,
    }


def _moment(at: float) -> str:
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _why_taken(account: str, known: Any) -> str:
    closed = any(each.account == account and each.closed is not None for each in known)
    if closed:
        return (
            f"the account {account} was closed: its number stays taken, for what others allowed it must not come to "
            "somebody else. Choose other 12 digits"
        )
    return f"the account {account} exists already; `wharfage account list` names all"


def _reached(config: Config, account: str) -> str:
    hosts = hosts_of(config)
    if not hosts.suffix:
        return (
            f"docker reaches the registry of {account} by a host of its own only: set [registry] suffix to a domain of "
            f"yours, and let {account}.dkr.ecr.{hosts.region}.SUFFIX lead to this server. The AWS API works without."
        )
    return f"docker reaches it at {hosts.registry(account, port_of(public_address(config).partition('://')[2]))}"
