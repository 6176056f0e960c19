"""Marker, MaxItems, IsTruncated: how IAM's lists go on.

A Marker is `metadata.paging`'s token, bound to the list it was made for; the model allows it 320 characters, which
holds one key of at most 200 ASCII characters. Rows are asked for in the order of that key, one more than are answered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from proxy.metadata.db import paging
from proxy.metadata.operations.iam.names import Parameters
from proxy.model.errors import Code, Failure

DEFAULT_ITEMS = 100

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Paging:
    """`listing` names the list with all that narrows it. `after` is the key it goes on beyond, empty at its start."""

    listing: tuple[str, ...]
    after: str
    items: int

    @property
    def limit(self) -> int:
        """Rows to ask for: the one beyond the page tells whether there are more."""
        return self.items + 1

    def page(self, found: Sequence[Item], key: Callable[[Item], str]) -> tuple[Sequence[Item], dict[str, Any]]:
        """Of rows beyond `after`, at most `limit` of them: those of this page, and IsTruncated with its Marker."""
        if len(found) <= self.items:
            return found, {"IsTruncated": False}
        shown = found[: self.items]
        return shown, {"IsTruncated": True, "Marker": paging.issue(self.listing, [key(shown[-1])])}

    def page_of_all(self, whole: Sequence[Item], key: Callable[[Item], str]) -> tuple[Sequence[Item], dict[str, Any]]:
        """As `page`, of a short list that lies in memory whole, in the order of `key`."""
        return self.page([item for item in whole if key(item) > self.after][: self.limit], key)


def read_paging(parameters: Parameters, *listing: str) -> Paging:
    """What a request wants of a list. Failure(ValidationError) for a Marker that is not of this list."""
    marker = parameters.get("Marker")
    after = ""
    if marker is not None:
        try:
            [after] = paging.read(listing, marker, 1)
        except Failure as failure:
            raise Failure(Code.VALIDATION_ERROR, "Invalid Marker.", parameter="Marker") from failure
    return Paging(listing, after, parameters.get("MaxItems") or DEFAULT_ITEMS)
