"""A dictionary of bounded size, for the in-memory caches of workers and services. It knows nothing of what it keeps."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, ItemsView, Iterator, MutableMapping, ValuesView
from typing import Any, Final, TypeVar, overload

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
Other = TypeVar("Other")

_MISSING: Final = object()


class Lru(MutableMapping[Key, Value]):
    """At most `entries` entries. One more evicts the least recently used; reading and setting an entry use it.

    `peek` and iteration do not; iteration and `popitem` begin at the least recently used.
    """

    __slots__ = ("_entries", "_kept")

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._kept: OrderedDict[Key, Value] = OrderedDict()

    def __getitem__(self, key: Key) -> Value:
        value = self._kept[key]
        self._kept.move_to_end(key)
        return value

    @overload
    def get(self, key: Key, default: None = None, /) -> Value | None: ...
    @overload
    def get(self, key: Key, default: Value | Other, /) -> Value | Other: ...
    def get(self, key: Key, default: Any = None, /) -> Any:
        """Without the exception of a miss that the inherited one costs."""
        value = self._kept.get(key, _MISSING)
        if value is _MISSING:
            return default
        self._kept.move_to_end(key)
        return value

    @overload
    def peek(self, key: Key, default: None = None, /) -> Value | None: ...
    @overload
    def peek(self, key: Key, default: Value | Other, /) -> Value | Other: ...
    def peek(self, key: Key, default: Any = None, /) -> Any:
        return self._kept.get(key, default)

    def __setitem__(self, key: Key, value: Value) -> None:
        self._kept[key] = value
        self._kept.move_to_end(key)
        if len(self._kept) > self._entries:
            self._kept.popitem(last=False)

    def __delitem__(self, key: Key) -> None:
        del self._kept[key]

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._kept)

    def __contains__(self, key: object) -> bool:
        return key in self._kept

    def items(self) -> ItemsView[Key, Value]:
        return self._kept.items()

    def values(self) -> ValuesView[Value]:
        return self._kept.values()
