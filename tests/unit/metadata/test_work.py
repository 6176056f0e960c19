"""No operation works more in a registry of ten times the size: instructions of SQLite's machine, counted, not timed.

Plans (`test_queries`) say that no statement reads what it does not return; this says it of what was read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from fill import ACCOUNT, DEEP, NOW, Size, config_of, fill, manifest_of, name_of, tag_of
from sqlalchemy import Connection

from proxy.metadata.db.sqlite import sqlite_engine
from proxy.metadata.db.transaction import Registry, Transaction
from proxy.metadata.operations import (
    blobs,
    identity,
    images,
    layers,
    manifests,
    pushes,
    referrers,
    removal,
    repositories,
    repository_tags,
    upkeep,
)
from proxy.model.names import repository_arn
from proxy.model.records import CreateOnPush
from support.metadata import digest

SMALL, TENFOLD = Size(120, 3, 120, 20), Size(1200, 3, 1200, 20)
SLACK = 1.2  # of a page of images more may have tags; a walk over them all is five times as much, or more
PAGE = 20
Asking = Callable[[Transaction], Any]


def _paged(operation: Callable[..., Mapping[str, Any]], **asked: Any) -> Asking:
    """The first page, and the one after it."""

    def ask(tx: Transaction) -> None:
        first = operation(tx, ACCOUNT, {"maxResults": PAGE, **asked})
        operation(tx, ACCOUNT, {"maxResults": PAGE, **asked, "nextToken": first["nextToken"]})

    return ask


def _put(tx: Transaction) -> None:
    content = manifest_of(DEEP, 0, annotations={"a": "new one"})
    tags = ["new", tag_of(2)]
    pushes.put_manifest(tx, **pushes.examine(ACCOUNT, DEEP, content, None, digest(content), tags, CreateOnPush.NO))


_NAMED = {"repositoryName": DEEP}
_IDS = [{"imageTag": tag_of(number)} for number in range(0, 40, 2)]
OPERATIONS: Mapping[str, Asking] = {
    "DescribeRepositories": _paged(repositories.describe_repositories),
    "DescribeRepositories by name": lambda tx: repositories.describe_repositories(
        tx, ACCOUNT, {"repositoryNames": [name_of(number) for number in range(50)]}
    ),
    **{
        f"{name} {status}": _paged(operation, **_NAMED, filter={"tagStatus": status})
        for name, operation in (("DescribeImages", images.describe_images), ("ListImages", images.list_images))
        for status in ("ANY", "TAGGED", "UNTAGGED")
    },
    "DescribeImages by tag": lambda tx: images.describe_images(tx, ACCOUNT, {**_NAMED, "imageIds": _IDS}),
    "BatchGetImage": lambda tx: images.batch_get_image(tx, ACCOUNT, {**_NAMED, "imageIds": _IDS}),
    "BatchDeleteImage": lambda tx: images.batch_delete_image(tx, ACCOUNT, {**_NAMED, "imageIds": _IDS}),
    "BatchCheckLayerAvailability": lambda tx: layers.batch_check_layer_availability(
        tx, ACCOUNT, {**_NAMED, "layerDigests": [config_of(DEEP, number) for number in range(50)]}
    ),
    "ListTagsForResource": lambda tx: repository_tags.list_tags_for_resource(
        tx, ACCOUNT, {"resourceArn": repository_arn("us-east-1", ACCOUNT, DEEP)}
    ),
    "CreateRepository": lambda tx: repositories.create_repository(tx, ACCOUNT, {"repositoryName": "new"}),
    "DeleteRepository": lambda tx: repositories.delete_repository(
        tx, ACCOUNT, {"repositoryName": name_of(7), "force": True}
    ),
    "manifest": lambda tx: manifests.manifest(tx, ACCOUNT, DEEP, tag_of(4)),
    "put_manifest": _put,
    "delete_manifest": lambda tx: manifests.delete_manifest(tx, ACCOUNT, DEEP, digest(manifest_of(DEEP, 5))),
    "tags": lambda tx: manifests.list_tags(tx, ACCOUNT, DEEP, tag_of(2), PAGE),
    "repositories": lambda tx: repositories.names(tx, ACCOUNT, name_of(9), PAGE),
    "referrers": lambda tx: referrers.referrers(tx, ACCOUNT, DEEP, digest(manifest_of(DEEP, 0)), None, "", PAGE),
    "repository_access": lambda tx: identity.repository_access(tx, ACCOUNT, DEEP),
    "blob": lambda tx: blobs.blob(tx, ACCOUNT, DEEP, config_of(DEEP, 6)),
    "blob_holders": lambda tx: blobs.blob_holders(tx, ACCOUNT, config_of(DEEP, 6), PAGE),
    "mount_blob": lambda tx: blobs.mount_blob(tx, ACCOUNT, name_of(8), config_of(DEEP, 6), DEEP, CreateOnPush.NO),
    "collect_blobs": lambda tx: upkeep.collect_blobs(tx, 1e9, 100),
    "expire_uploads": lambda tx: upkeep.expire_uploads(tx, 0.0, 100),
    "remove_deleted": lambda tx: removal.remove_deleted(tx, 100),
}


@pytest.fixture(scope="module")
def registries(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("registries")
    for name, size in (("small", SMALL), ("tenfold", TENFOLD)):
        fill(folder / name, size)
    return folder / "small", folder / "tenfold"


def _work(database: Path, ask: Asking) -> int:
    """Instructions that an operation costs, which is then undone."""
    counted = 0

    def count() -> None:
        nonlocal counted
        counted += 1

    engine = sqlite_engine(database)
    with engine.connect() as connection:
        connection.info["writing"] = True
        transaction = connection.begin()
        _handler(connection, count)
        ask(Transaction(connection, NOW, Registry(account=ACCOUNT)))
        _handler(connection, None)
        transaction.rollback()
    engine.dispose()
    return counted


def _handler(connection: Connection, count: Callable[[], None] | None) -> None:
    driver: Any = connection.connection.driver_connection
    driver.set_progress_handler(count, 1)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_costs_the_same_in_a_registry_of_ten_times_the_size(
    registries: tuple[Path, Path], name: str
) -> None:
    small, tenfold = (_work(database, OPERATIONS[name]) for database in registries)
    assert 0 < tenfold <= small * SLACK


def test_a_walk_over_all_images_would_be_counted(registries: tuple[Path, Path]) -> None:
    """The test above rests on this."""
    small, tenfold = (
        _work(database, lambda tx: tx.connection.exec_driver_sql("SELECT count(annotations) FROM images").all())
        for database in registries
    )
    assert tenfold > small * 5
