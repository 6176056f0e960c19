"""credentials report and rotate, and revoke: which keys open the installation, and how what somebody holds ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from proxy.admin.audit_trail import audited
from proxy.admin.session import CommandRefused, Say, existing, visiting
from proxy.app.context import WorkerContext
from proxy.auth import secrets
from proxy.config.settings import Config
from proxy.metadata.operations.accounts import ADMINISTRATOR
from proxy.model.errors import Code, Failure
from proxy.model.identity import CredentialReportEntry
from proxy.runtime import data_directory

WARNING_DAYS = 14
_PAGE = 100
_DAY = 86_400
_ACCOUNT = re.compile(r"arn:aws:(?:iam|sts)::([0-9]{12}):", re.ASCII)


def report(config: Config, *, warn: Say) -> list[dict[str, Any]]:
    """Every long-lived key of every account, by principal. `warn` hears of those whose age ends them soon."""

    async def run(own: WorkerContext) -> list[CredentialReportEntry]:
        found: list[CredentialReportEntry] = []
        while page := await own.metadata.credentials(after=found[-1].access_key_id if found else "", limit=_PAGE):
            found += page
        return found

    now = time.time()
    found = sorted(
        asyncio.run(visiting(config, run)), key=lambda each: (each.principal_arn, each.created, each.access_key_id)
    )
    for each in found:
        left = None if each.expires is None else each.expires - now
        if left is not None and _status(each, now) == "active" and left < WARNING_DAYS * _DAY:
            warn(f"{each.access_key_id} of {each.principal_arn} expires in {max(0, int(left // _DAY))} days")
    return [_described(each, now) for each in found]


def as_table(keys: Sequence[dict[str, Any]]) -> str:
    """For people: a line a key."""
    heads = ("PRINCIPAL", "KEY", "STATUS", "AGE", "EXPIRES", "LAST USED", "POLICIES")
    rows = [
        (
            each["principal"],
            each["access_key_id"],
            each["status"],
            f"{each['age_days']} d",
            (each["expires"] or "-")[:10],
            f"{each['last_used'][:10]} {each['last_service']}" if each["last_used"] else "never",
            ", ".join(policy.rpartition("/")[2] for policy in each["policies"]) or "none",
        )
        for each in keys
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (heads, *rows)
    )


def revoke(config: Config, arn: str, *, hint: Say) -> dict[str, Any]:
    """End what a principal holds. `CommandRefused` for what is none; `hint` hears what this does not end."""
    account = _ACCOUNT.match(arn)

    async def run(own: WorkerContext) -> dict[str, Any]:
        try:
            done = await own.metadata.revoke(arn)
        except Failure as failure:
            if failure.code in (Code.INVALID_INPUT, Code.NO_SUCH_ENTITY, Code.LIMIT_EXCEEDED):
                raise CommandRefused(failure.message) from None
            raise
        return {
            "principal": done.principal_arn,
            "access_keys_made_inactive": list(done.access_key_ids),
            "issued_before": _moment(done.issued_until),
        }

    done = asyncio.run(
        audited(
            config,
            account[1] if account else config.registry.account,
            "RevokePrincipal",
            {"principal": arn[:256]},
            run,
            source="iam",
            command="wharfage revoke",
        )
    )
    if ":role/" in arn or ":assumed-role/" in arn:
        hint("principals that the role's trust policy allows may assume it again")
    else:
        hint("sessions of roles that it took go on under the roles: revoke those too")
    if config.keys.access_key_id in done["access_keys_made_inactive"]:
        hint("WHARFAGE_ACCESS_KEY_ID gives this key: the next start makes it active again, unless it gives another one")
    return done


def rotate(config: Config) -> dict[str, Any]:
    """A new key of the administrator's in the credentials file; the one that was there is deleted. Cut off anywhere, it
    goes on where it was: the new key is on disk before it is in force, and the old one goes last."""
    data = existing(config)
    if config.keys.access_key_id:
        raise CommandRefused(
            "the settings give the administrator's key: change WHARFAGE_ACCESS_KEY_ID there, and restart"
        )
    draft, account = data.credentials.with_name(data.credentials.name + ".new"), config.registry.account

    async def run(own: WorkerContext) -> dict[str, Any]:
        await own.agreement.begin(moving=True)
        old, new = data_directory.read_credentials(data.credentials), data_directory.read_credentials(draft)
        if new is None:
            new = data_directory.new_access_key()
            data_directory.write_credentials(draft, *new)
        sealed = secrets.seal_secret(own.agreement.sealer(secrets.PURPOSE), *new)
        try:
            await own.metadata.create_access_key(account, ADMINISTRATOR, new[0], sealed)
        except Failure as failure:
            if failure.code in (Code.LIMIT_EXCEEDED, Code.NO_SUCH_ENTITY):
                draft.unlink()
                raise CommandRefused(
                    f"{failure.message} Delete a key of user {ADMINISTRATOR} that is of no use, or give a key by "
                    "WHARFAGE_ACCESS_KEY_ID and WHARFAGE_SECRET_ACCESS_KEY: a start with them makes it the only one"
                ) from None
            if failure.code is not Code.ENTITY_ALREADY_EXISTS:
                raise
        os.replace(draft, data.credentials)
        if old is not None:
            with contextlib.suppress(Failure):  # it was deleted already
                await own.metadata.iam(account, "DeleteAccessKey", {"UserName": ADMINISTRATOR, "AccessKeyId": old[0]})
        return {"access_key_id": new[0], "replaces": old[0] if old else None, "file": str(data.credentials)}

    return asyncio.run(
        audited(config, account, "RotateAccessKey", {}, run, source="iam", command="wharfage credentials")
    )


def _described(key: CredentialReportEntry, now: float) -> dict[str, Any]:
    return {
        "principal": key.principal_arn,
        "access_key_id": key.access_key_id,
        "status": _status(key, now),
        "created": _moment(key.created),
        "age_days": int((now - key.created) // _DAY),
        "expires": None if key.expires is None else _moment(key.expires),
        "last_used": None if key.last_used is None else _moment(key.last_used),
        "last_service": key.last_service or None,
        "last_region": key.last_region or None,
        "policies": list(key.policies),
    }


def _status(key: CredentialReportEntry, now: float) -> str:
    if not key.is_open:
        return "account closed"
    if not key.is_active:
        return "inactive"
    return "expired" if key.expires is not None and key.expires <= now else "active"


def _moment(at: float) -> str:
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
