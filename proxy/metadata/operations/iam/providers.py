"""OIDC identity providers: issuers of web identities that an account trusts.

A provider is identified by its URL: the ARN contains it without the scheme, as it was given, and the same URL twice is
refused. Nothing here sends a request to the URL. Without thumbprints the issuer's certificate is checked against the
usual authorities. Source: IAM API Reference, CreateOpenIDConnectProvider.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import delete, func, insert, select, update

from proxy.metadata.db.identity_tables import oidc_providers
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations.iam import paging, quotas, tags
from proxy.metadata.operations.iam.names import Parameters
from proxy.model.errors import Code, Failure

_THUMBPRINTS = 5
_THUMBPRINT = re.compile(r"[0-9a-fA-F]{40}", re.ASCII)
_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]*)*", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?", re.ASCII)

_ARN = "OpenIDConnectProviderArn"


def create_provider(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    url = _checked_url(parameters["Url"])
    client_ids = list(dict.fromkeys(parameters.get("ClientIDList") or ()))
    thumbprints = _checked_thumbprints(parameters.get("ThumbprintList") or ())
    given = tags.requested(parameters, quotas.TAGS_PER_PROVIDER)
    quotas.check(quotas.CLIENT_IDS, len(client_ids))
    arn = f"arn:aws:iam::{account}:oidc-provider/{url}"
    if _find(tx, account, arn) is not None:
        raise Failure(Code.ENTITY_ALREADY_EXISTS, f"Provider with url https://{url} already exists.")
    held = select(func.count()).select_from(oidc_providers).where(oidc_providers.c.account == account)
    quotas.check(quotas.PROVIDERS, tx.connection.execute(held).scalar_one() + 1)
    tx.connection.execute(
        insert(oidc_providers).values(
            arn=arn,
            account=account,
            url=url,
            client_ids=json.dumps(client_ids),
            thumbprints=json.dumps(thumbprints),
            tags=tags.encode(given),
            created_at=tx.now,
        )
    )
    tx.changes.identity = True
    return {_ARN: arn, "Tags": tags.render(tags.encode(given))} if given else {_ARN: arn}


def get_provider(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Returns the URL without its scheme, as AWS does."""
    row = _need(tx, account, parameters)
    return {
        "Url": row.url,
        "ClientIDList": json.loads(row.client_ids),
        "ThumbprintList": json.loads(row.thumbprints),
        "CreateDate": row.created_at,
        "Tags": tags.render(row.tags),
    }


def list_providers(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    found = tx.connection.execute(select(oidc_providers.c.arn).where(oidc_providers.c.account == account)).scalars()
    return {"OpenIDConnectProviderList": [{"Arn": arn} for arn in sorted(found)]}  # within its quota, never paged


def delete_provider(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """One that is not there is gone already: no error, as at AWS."""
    mine = (oidc_providers.c.arn == parameters[_ARN]) & (oidc_providers.c.account == account)
    tx.connection.execute(delete(oidc_providers).where(mine))
    tx.changes.identity = True
    return {}


def add_client_id(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = _need(tx, account, parameters)
    held: list[str] = json.loads(row.client_ids)
    if parameters["ClientID"] in held:
        return {}
    quotas.check(quotas.CLIENT_IDS, len(held) + 1)
    return _write(tx, row, client_ids=json.dumps([*held, parameters["ClientID"]]))


def remove_client_id(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """One that is not there is gone already: no error, as at AWS."""
    row = _need(tx, account, parameters)
    held: list[str] = json.loads(row.client_ids)
    return _write(tx, row, client_ids=json.dumps([each for each in held if each != parameters["ClientID"]]))


def update_thumbprint(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """Replaces the whole list."""
    thumbprints = _checked_thumbprints(parameters["ThumbprintList"])
    return _write(tx, _need(tx, account, parameters), thumbprints=json.dumps(thumbprints))


def tag_provider(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = _need(tx, account, parameters)
    return _write(tx, row, tags=tags.add(row.tags, parameters, quotas.TAGS_PER_PROVIDER))


def untag_provider(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = _need(tx, account, parameters)
    return _write(tx, row, tags=tags.remove(row.tags, parameters["TagKeys"]))


def list_provider_tags(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    row = _need(tx, account, parameters)
    return tags.page(row.tags, paging.read_paging(parameters, "ListOpenIDConnectProviderTags", account, row.arn))


def _find(tx: Transaction, account: str, arn: str) -> FoundRow | None:
    mine = select(oidc_providers).where(oidc_providers.c.arn == arn, oidc_providers.c.account == account)
    return tx.connection.execute(mine).one_or_none()


def _need(tx: Transaction, account: str, parameters: Parameters) -> FoundRow:
    arn = parameters[_ARN]
    row = _find(tx, account, arn)
    if row is None:
        raise Failure(Code.NO_SUCH_ENTITY, f"OpenIDConnect Provider not found for arn {arn}")
    return row


def _write(tx: Transaction, row: FoundRow, **values: str | None) -> dict[str, Any]:
    tx.connection.execute(update(oidc_providers).where(oidc_providers.c.arn == row.arn).values(**values))
    tx.changes.identity = True
    return {}


def _checked_url(url: str) -> str:
    """The URL without its scheme. Only https, host, port and path: it must equal a token's `iss`."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    bare = parts.netloc + parts.path
    fits = parts.scheme == "https" and _HOST.fullmatch(parts.netloc) and _PATH.fullmatch(parts.path)
    if not fits or url != f"https://{bare}":
        raise Failure(Code.VALIDATION_ERROR, "Invalid Open ID Connect Provider URL", parameter="Url")
    return bare


def _checked_thumbprints(thumbprints: Sequence[str]) -> list[str]:
    if len(thumbprints) > _THUMBPRINTS:
        raise Failure(Code.INVALID_INPUT, f"Thumbprint list must contain fewer than {_THUMBPRINTS} entries.")
    if not all(_THUMBPRINT.fullmatch(each) for each in thumbprints):
        raise Failure(Code.INVALID_INPUT, "A thumbprint is the SHA-1 of a certificate, in 40 hexadecimal digits.")
    return list(thumbprints)
