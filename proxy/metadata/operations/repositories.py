"""Repositories: look-ups that other modules begin with, and the ECR operations on them.

Sources: botocore's `ecr` model; texts as ECR answers them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, update

from proxy.awsmodel.validation import invalid
from proxy.metadata.contract import ManifestPort
from proxy.metadata.db import paging
from proxy.metadata.db.identity_tables import accounts
from proxy.metadata.db.schema import UPLOAD_CLOSED, UPLOAD_OPEN, images, repositories, repository_tags, uploads
from proxy.metadata.db.transaction import FoundRow, Transaction
from proxy.metadata.operations import mutability, usage
from proxy.metadata.operations.operation import ecr_operation, operation
from proxy.metadata.operations.removal import AT_ONCE, mark_deleted, remove
from proxy.model import quotas
from proxy.model.errors import Code, Failure, repository_not_found
from proxy.model.names import repository_arn
from proxy.model.records import Page

Parameters = Mapping[str, Any]
DEFAULT_PAGE = 100
TAGS_MAX = 50
KEY_MAX = 128  # characters of a tag's key

_ID_OF = select(repositories.c.repository_id).where(
    repositories.c.account == bindparam("account"), repositories.c.name == bindparam("name")
)  # built once: nearly every operation runs it


_ENCRYPTION_OF = select(repositories.c.encryption).where(repositories.c.repository_id == bindparam("id"))


def find_repository(tx: Transaction, account: str, name: str) -> int | None:
    found: int | None = tx.connection.execute(_ID_OF, {"account": account, "name": name}).scalar()
    return found


def need_repository(tx: Transaction, account: str, name: str) -> int:
    found = find_repository(tx, account, name)
    if found is None:
        raise repository_not_found(name, account)
    return found


def encryption_of(tx: Transaction, repository_id: int) -> str:
    """The ARN of the KMS key that wraps a repository's data keys; empty for the server's own."""
    found: str = tx.connection.execute(_ENCRYPTION_OF, {"id": repository_id}).scalar_one()
    return found


def named_repository(tx: Transaction, account: str, parameters: Parameters) -> tuple[str, FoundRow]:
    """The repository that an ECR request names. RepositoryNotFound for another registry's."""
    name = parameters["repositoryName"]
    registry = parameters.get("registryId") or account
    row = None
    if registry == account:
        row = tx.connection.execute(
            select(repositories).where(repositories.c.account == account, repositories.c.name == name)
        ).one_or_none()
    if row is None:
        raise repository_not_found(name, registry)
    return name, row


def make_repository(tx: Transaction, account: str, name: str, parameters: Parameters) -> int:
    """A new repository's row id. `parameters` are CreateRepository's, and a template's `lifecyclePolicy`."""
    repository_id = _insert(tx, account, name, parameters)
    for key, value in check_tags(parameters.get("tags") or ()).items():
        tx.connection.execute(insert(repository_tags).values(repository_id=repository_id, key=key, value=value))
    return repository_id


@operation(ManifestPort, name="repositories")
def names(tx: Transaction, account: str, last: str, limit: int) -> Page:
    found = (
        tx.connection.execute(
            select(repositories.c.name)
            .where(repositories.c.account == account, repositories.c.name > last)
            .order_by(repositories.c.name)
            .limit(limit + 1)
        )
        .scalars()
        .all()
    )
    return Page(tuple(found[:limit]), len(found) > limit)


@ecr_operation("CreateRepository", write=True)
def create_repository(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    name = parameters["repositoryName"]
    if (parameters.get("registryId") or account) != account:
        raise invalid("registryId", "Repositories are created in one's own registry")
    check_settings(parameters)
    if find_repository(tx, account, name) is not None:
        raise Failure(
            Code.REPOSITORY_ALREADY_EXISTS,
            f"The repository with name '{name}' already exists in the registry with id '{account}'",
        )
    repository_id = make_repository(tx, account, name, parameters)
    row = tx.connection.execute(select(repositories).where(repositories.c.repository_id == repository_id)).one()
    return {"repository": _described(tx, row)}


@ecr_operation("DescribeRepositories")
def describe_repositories(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    wanted = parameters.get("repositoryNames")
    token = parameters.get("nextToken")
    registry = parameters.get("registryId") or account
    if wanted:
        if token or parameters.get("maxResults"):
            raise invalid("nextToken" if token else "maxResults", "Paging is not available with repositoryNames")
        found = _rows(tx, account, wanted) if registry == account else {}
        for name in wanted:
            if name not in found:
                raise repository_not_found(name, registry)
        return {"repositories": [_described(tx, found[name]) for name in wanted]}
    if registry != account:
        return {"repositories": []}
    listing = ("DescribeRepositories", account)
    limit = parameters.get("maxResults") or DEFAULT_PAGE
    after = paging.read(listing, token, 1)[0] if token else ""
    rows = tx.connection.execute(
        select(repositories)
        .where(repositories.c.account == account, repositories.c.name > after)
        .order_by(repositories.c.name)
        .limit(limit + 1)
    ).all()
    answer: dict[str, Any] = {"repositories": [_described(tx, row) for row in rows[:limit]]}
    if len(rows) > limit:
        answer["nextToken"] = paging.issue(listing, [rows[limit - 1].name])
    return answer


@ecr_operation("DeleteRepository", write=True)
def delete_repository(tx: Transaction, account: str, parameters: Parameters) -> dict[str, Any]:
    """With `force` also its images: they are hidden at once, and their rows are removed by upkeep. Blobs without
    another link, and open uploads, are removed by the sweep."""
    name, row = named_repository(tx, account, parameters)
    key = row.repository_id
    held = tx.connection.execute(select(images.c.image_id).where(images.c.repository_id == key).limit(1)).first()
    if held is not None and not parameters.get("force"):
        raise Failure(
            Code.REPOSITORY_NOT_EMPTY,
            f"The repository with name '{name}' in registry with id '{account}' cannot be deleted"
            " because it still contains images",
        )
    run = tx.connection.execute
    ended = run(
        update(uploads)
        .where(uploads.c.account == account, uploads.c.repository == name, uploads.c.state == UPLOAD_OPEN)
        .values(state=UPLOAD_CLOSED)
        .returning(uploads.c.plain_size)
    )
    usage.uncount_repository(tx, account, key, sum(ended.scalars()))
    answer = _described(tx, row)
    run(delete(repository_tags).where(repository_tags.c.repository_id == key))
    mark_deleted(tx, key)
    remove(tx, key, AT_ONCE)
    _count_repository(tx, account, -1)
    tx.changed(account, name)
    return {"repository": answer}


def _rows(tx: Transaction, account: str, wanted: Sequence[str]) -> dict[str, FoundRow]:
    mine = select(repositories).where(repositories.c.account == account, repositories.c.name.in_(wanted))
    return {row.name: row for row in tx.connection.execute(mine)}


def _insert(tx: Transaction, account: str, name: str, parameters: Parameters) -> int:
    encryption = parameters.get("encryptionConfiguration") or {}
    _count_repository(tx, account, 1)
    result = tx.connection.execute(
        insert(repositories).values(
            account=account,
            name=name,
            created_at=tx.now,
            **mutability.columns(parameters),
            scan_on_push=bool((parameters.get("imageScanningConfiguration") or {}).get("scanOnPush")),
            encryption_type=encryption.get("encryptionType") or "AES256",
            kms_key=encryption.get("kmsKey"),
            encryption=encryption.get("kmsKey") or "",
            lifecycle_policy=parameters.get("lifecyclePolicy"),
        )
    )
    tx.changed(account, name)
    made: int = result.inserted_primary_key[0]  # type: ignore[index]  # an insert has one
    return made


def _count_repository(tx: Transaction, account: str, change: int) -> None:
    """LimitExceeded if one more exceeds the quota; the caller's transaction is rolled back then."""
    most = tx.registry.quotas.repositories
    held = tx.connection.execute(
        update(accounts)
        .where(accounts.c.account == account)
        .values(repositories=accounts.c.repositories + change)
        .returning(accounts.c.repositories)
    ).scalar()
    if held is not None and change > 0 and held > most:
        raise quotas.exceeded(f"The registry with id '{account}'", "repositories", most)


def _described(tx: Transaction, row: FoundRow) -> dict[str, Any]:
    encryption = {"encryptionType": row.encryption_type}
    if row.kms_key is not None:
        encryption["kmsKey"] = row.kms_key
    region = tx.registry.region
    return {
        "repositoryArn": repository_arn(region, row.account, row.name),
        "registryId": row.account,
        "repositoryName": row.name,
        "repositoryUri": tx.registry.repository_uri.format(account=row.account, region=region, name=row.name),
        "createdAt": row.created_at,
        **mutability.response_members(row),
        "imageScanningConfiguration": {"scanOnPush": row.scan_on_push},
        "encryptionConfiguration": encryption,
    }


def check_settings(parameters: Parameters) -> None:
    """Checks that the model's shapes do not express."""
    mutability.check(parameters)
    encryption = parameters.get("encryptionConfiguration") or {}
    own = encryption.get("kmsKey")
    if own and encryption["encryptionType"] == "AES256":
        raise invalid("encryptionConfiguration.kmsKey", "A key cannot be given with encryption type AES256")
    if encryption and not own and encryption["encryptionType"] != "AES256":  # the proxy resolves the key before
        raise invalid("encryptionConfiguration.kmsKey", "Member must not be null")


def check_tags(given: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The API's tags by key. InvalidTagParameter, TooManyTags."""
    if len(given) > TAGS_MAX:
        raise too_many_tags()
    found: dict[str, str] = {}
    seen: set[str] = set()  # policies ignore the case of keys, so two keys must differ in more
    for tag in given:
        key, value = tag["Key"], tag["Value"]
        if not 1 <= len(key) <= KEY_MAX or len(value) > 256 or key.lower() in seen:
            raise Failure(
                Code.INVALID_TAG_PARAMETER,
                f"Invalid tag key {key[:KEY_MAX]!r}: keys are unique, whatever their case, and 1 to {KEY_MAX} "
                "characters long, values at most 256",
            )
        seen.add(key.lower())
        if key.lower().startswith("aws:"):
            raise Failure(
                Code.INVALID_TAG_PARAMETER, f"Invalid tag key {key[:KEY_MAX]!r}: keys that begin with aws: are reserved"
            )
        found[key] = value
    return found


def too_many_tags() -> Failure:
    return Failure(Code.TOO_MANY_TAGS, f"A repository can have at most {TAGS_MAX} tags")
