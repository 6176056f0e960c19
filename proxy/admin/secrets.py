"""secret put, list and remove, and pull-through list: what rules log in with, and the rules, from the machine itself.

Writes the rows that the API writes, without a policy check: read access to the data directory is enough. A value is
sealed before it leaves this process and printed by none of these.
"""

from __future__ import annotations

import asyncio
import json
import secrets as randomness
import string
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from proxy.admin.audit_trail import audited
from proxy.admin.session import CommandRefused, visiting
from proxy.app.context import WorkerContext
from proxy.auth.secrets import VALUE_PURPOSE, SecretValue, seal_value
from proxy.config.settings import Config
from proxy.ecr.secretsmanager import arguments
from proxy.model.secrets import PULL_THROUGH_PREFIX, SecretHead, secret_arn

_LETTERS = string.ascii_letters + string.digits
SOURCE = "secretsmanager"


def put(config: Config, account: str, name: str, username: str, password: str) -> str:
    """Make the secret that a rule logs in with, or give it a new value. Its ARN."""
    account, name = account or config.registry.account, full_name(name)
    if not username or not password:
        raise CommandRefused("a rule logs in with a user name and a password or token: one of them is empty")
    arguments.check("CreateSecret", {"Name": name})
    value = SecretValue(text=json.dumps({"username": username, "accessToken": password}))

    async def run(own: WorkerContext) -> str:
        await own.agreement.begin(moving=True)
        sealer, version = own.agreement.sealer(VALUE_PURPOSE), str(uuid.uuid4())
        held = await own.metadata.secret(account, name)
        asked = {"ClientRequestToken": version}
        if held is None:
            suffix = "".join(randomness.choice(_LETTERS) for _ in range(6))
            arn = secret_arn(config.registry.region, account, name, suffix)
            asked |= {"Name": name, "ARN": arn, "Description": "made by wharfage secret put"}
        else:
            arn = held.arn
            asked["SecretId"] = arn
        action = "CreateSecret" if held is None else "PutSecretValue"
        sealed = seal_value(sealer, arn, version, value)
        await own.metadata.write_secrets(account, action, asked, sealed=sealed)
        return arn

    return asyncio.run(_run_audited(config, account, "PutSecretValue", name, run))


def listed(config: Config, account: str) -> list[dict[str, Any]]:
    """Every secret of the account, by name, without its value; `rules` are the prefixes that log in with it."""
    account = account or config.registry.account

    async def run(own: WorkerContext) -> list[dict[str, Any]]:
        users = await _users(own, account)
        found: list[dict[str, Any]] = []
        asked: dict[str, Any] = {"IncludePlannedDeletion": True}
        while True:
            page = await own.metadata.read_secrets(account, "ListSecrets", asked)
            found += [_described(each, users) for each in page["SecretList"]]
            if "NextToken" not in page:
                return found
            asked["NextToken"] = page["NextToken"]

    return asyncio.run(visiting(config, run))


def remove(config: Config, account: str, name: str) -> str:
    """Delete a secret for good. Its ARN. `CommandRefused` for one that is not there, or that a rule logs in with."""
    account = account or config.registry.account

    async def run(own: WorkerContext) -> str:
        held = await _held(own, account, name)
        if held is None:
            raise CommandRefused(
                f"there is no secret {name} in the account {account}; `wharfage secret list` names all"
            )
        if prefixes := (await _users(own, account)).get(held.arn):
            raise CommandRefused(
                f"the pull-through cache rule {', '.join(prefixes)} logs in with it: change that first"
            )
        await own.metadata.write_secrets(
            account, "DeleteSecret", {"SecretId": held.arn, "ForceDeleteWithoutRecovery": True}
        )
        return held.arn

    return asyncio.run(_run_audited(config, account, "DeleteSecret", name, run))


def rules(config: Config, account: str) -> list[dict[str, Any]]:
    """Pull-through cache rules by account and prefix; those of one account, or of all that are open."""

    async def run(own: WorkerContext) -> list[dict[str, Any]]:
        opened = [each.account for each in await own.metadata.accounts() if each.closed is None]
        found = [
            rule for each in opened if account in ("", each) for rule in await own.metadata.pull_through_rules(each)
        ]
        return [
            {
                "account": rule.account,
                "prefix": rule.prefix,
                "upstream": rule.upstream_url,
                "kind": rule.upstream_registry or None,
                "upstream_prefix": rule.upstream_prefix,
                "secret": rule.credential_arn or None,
                "role": rule.custom_role_arn or None,
                "created": _moment(rule.created_at),
                "updated": _moment(rule.updated_at),
            }
            for rule in found
        ]

    return asyncio.run(visiting(config, run))


def full_name(name: str) -> str:
    """Rules log in only with secrets whose name begins so."""
    return name if name.startswith(PULL_THROUGH_PREFIX) else PULL_THROUGH_PREFIX + name


async def _held(own: WorkerContext, account: str, name: str) -> SecretHead | None:
    return await own.metadata.secret(account, name) or await own.metadata.secret(account, full_name(name))


async def _users(own: WorkerContext, account: str) -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = {}
    for rule in await own.metadata.pull_through_rules(account):
        found.setdefault(rule.credential_arn, []).append(rule.prefix)
    return found


async def _run_audited(config: Config, account: str, operation: str, name: str, run: Any) -> str:
    found: str = await audited(
        config, account, operation, {"secretId": name}, run, source=SOURCE, command="wharfage secret"
    )
    return found


def _described(entry: Mapping[str, Any], users: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    return {
        "name": entry["Name"],
        "arn": entry["ARN"],
        "created": _moment(entry["CreatedDate"]),
        "changed": _moment(entry["LastChangedDate"]),
        "deleted": _moment(entry["DeletedDate"]) if "DeletedDate" in entry else None,
        "rules": list(users.get(entry["ARN"], ())),
    }


def _moment(at: float) -> str:
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
