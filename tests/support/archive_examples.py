"""One call of each operation on rows about the archive, for the tests of every operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from proxy.metadata.db.transaction import Transaction
from proxy.metadata.operations import archive, archive_moves, reservations


def of_archive(tx: Transaction, account: str, repository: str, push: Any) -> Mapping[str, Callable[[], Any]]:
    """By name, in an order in which each finds what it is about."""
    one = push.image("frozen", "frozen-1")
    push.image("frozen-sbom", subject={"mediaType": "m", "digest": one, "size": 1})
    about = {"repositoryName": repository, "imageId": {"imageTag": "frozen-1"}}

    def moved() -> None:
        with_place = replace(tx, registry=replace(tx.registry, archives=True))
        archive.update_image_storage_class(with_place, account, {**about, "targetStorageClass": "ARCHIVE"})
        while (found := archive_moves.next_archive_move(tx, account, repository, one)) is not None:
            _move(found.object_key, archived=True)

    def _move(object_key: str, *, archived: bool) -> None:
        new_key = f"{'a' if archived else 'b'}{object_key[1:]}"
        reservations.reserve_object(tx, new_key, 60.0)
        archive_moves.move_object(tx, object_key, new_key, archived)

    def ended() -> None:
        archive.update_image_storage_class(tx, account, {**about, "targetStorageClass": "STANDARD"})
        archive_moves.end_activation(tx, account, repository, one)
        while (found := archive_moves.next_archive_move(tx, account, repository, one)) is not None:
            _move(found.object_key, archived=False)
        archive_moves.end_activation(tx, account, repository, one)

    return {
        "move_object": moved,
        "next_archive_move": lambda: archive_moves.next_archive_move(tx, account, repository, one),
        "any_archived": lambda: archive_moves.any_archived(tx),
        "end_activation": ended,
        "archive_backlog": lambda: archive_moves.archive_backlog(tx, 0, 9),
        "enqueue_archive": lambda: archive_moves.enqueue_archive(tx, [1, 2, 3]),
        "archive_usage": lambda: archive_moves.archive_usage(tx, 9),
    }
