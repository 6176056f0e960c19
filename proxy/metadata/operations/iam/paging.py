"""Marker, MaxItems, IsTruncated: the paging of IAM's lists.

A Marker is a token of `db.paging`, bound to its list. The model allows it 320 characters, enough for a key of 200 ASCII
characters. Rows are read in the order of that key, one more than are returned.
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
    """`listing` names the list and its filters. The page continues beyond the key `after`, empty at the start."""

    listing: tuple[str, ...]
    after: str
    items: int

    @property
    def limit(self) -> int:
        """How many rows to read: one beyond the page, to know whether there are more."""
        return self.items + 1

    def page(self, found: Sequence[Item], key: Callable[[Item], str]) -> tuple[Sequence[Item], dict[str, Any]]:
        """The page of at most `limit` rows beyond `after`, and IsTruncated with its Marker."""
        if len(found) <= self.items:
            return found, {"IsTruncated": False}
        shown = found[: self.items]
        return shown, {"IsTruncated": True, "Marker": paging.issue(self.listing, [key(shown[-1])])}

    def page_of_all(self, whole: Sequence[Item], key: Callable[[Item], str]) -> tuple[Sequence[Item], dict[str, Any]]:
        """`page` for a short list in memory, in the order of `key`."""
        return self.page([item for item in whole if key(item) > self.after][: self.limit], key)


def read_paging(parameters: Parameters, *listing: str) -> Paging:
    """The paging members of a request. Failure(ValidationError) for another list's Marker."""
    marker = parameters.get("Marker")
    after = ""
    if marker is not None:
        try:
            [after] = paging.read(listing, marker, 1)
        except Failure as failure:
            raise Failure(Code.VALIDATION_ERROR, "Invalid Marker.", parameter="Marker") from failure
    return Paging(listing, after, parameters.get("MaxItems") or DEFAULT_ITEMS)
