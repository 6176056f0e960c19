"""Caches metadata reads. An answer stays valid while the epoch that it was read under is current.

Wraps any `contract.Metadata` and is one itself. What is cached, under which epoch and for how long is declared at each
operation (`operations.operation.Caching`); all other calls go straight to the wrapped client. The epoch is read
*before* the question is sent. Absence is never cached, nor what belongs to an upload. Without an epoch page, or while
its lease is not valid, only answers that can never change are cached. A worker makes one (`app.context`). Must not know
any operation.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import replace
from typing import Any, Generic, TypeVar

from proxy import observe
from proxy.metadata.client.epochs import Epochs
from proxy.metadata.contract import Metadata
from proxy.metadata.operations import INTERNAL
from proxy.metadata.operations.operation import Caching, Scope
from proxy.model.errors import Code, Failure
from proxy.model.identity import AccessKey, AttachedPolicy, Principal
from proxy.model.lru import Lru

Value = TypeVar("Value")
Key = tuple[Any, ...]
"""An operation's arguments in order, sequences as tuples."""

SETTLE_SECONDS = 0.05  # by which the count of hits lags behind
POLICIES = 4096  # of which principals share one copy

_METHODS = {name for port in Metadata.__mro__ for name in vars(port) if not name.startswith("_")}
_FOREVER = 0  # the epoch of answers that never change


class CachedMetadata(Metadata):
    """One worker's cache. `close` does not close the epoch page; the caller owns it."""

    def __init__(
        self,
        inner: Metadata,
        epochs: Epochs | None,
        clock: Callable[[], float],
        entries: int | None,
        manifest_bytes: int | None,
    ) -> None:
        """Use `wrap`."""
        self._inner = inner
        self._epochs = epochs
        self._clock = clock
        self._entries = entries
        self._shared = _SharedPolicies(POLICIES)
        self._hit = observe.metrics.metadata_cache.labels("hit").inc  # finding it costs as much as counting
        self._hits = 0  # not counted yet: a metric takes a microsecond each time, and a pull has five
        self._missed = observe.metrics.metadata_cache.labels("miss").inc
        self._recent: dict[str, _Recent[Any]] = {}
        for name in _METHODS:
            caching = INTERNAL[name].caching if name in INTERNAL else None
            if caching is None:
                setattr(self, name, getattr(inner, name))
            elif caching.each is not None:
                setattr(self, name, self._of_each(name, caching))
            elif caching.by_digest:
                setattr(self, name, self._by_digest(name, caching, manifest_bytes or caching.bytes_max or 0))
            elif caching.bytes_max is not None:
                setattr(self, name, self._by_size(name, caching, caching.bytes_max))
            else:
                setattr(self, name, self._whole(name, caching))

    @classmethod
    def wrap(
        cls,
        inner: Metadata,
        epochs: Epochs | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        entries: int | None = None,
        manifest_bytes: int | None = None,
    ) -> CachedMetadata:
        """`epochs` None: only answers that never change are cached. The bounds are for tests; None: as declared."""
        return cls(inner, epochs, clock, entries, manifest_bytes)

    def _whole(self, name: str, caching: Caching) -> Callable[..., Awaitable[Any]]:
        """Caches whole answers."""
        recent, key_of, epoch_of = self._answers(name, caching), _key_maker(name), self._epoch_reader(caching.scope)
        inner = self._inner

        async def method(*given: Any, **named: Any) -> Any:
            key = key_of(*given, **named)
            epoch = epoch_of(key)
            found = self._counted(recent.get(key, epoch))
            if found is None:
                found = await getattr(inner, name)(*given, **named)
                if caching.present(found):
                    if caching.shares_policies:
                        found = self._shared.replace_policies(found)
                    recent.put(key, epoch, found)
            return found

        return method

    def _of_each(self, name: str, caching: Caching) -> Callable[..., Awaitable[Any]]:
        """For an operation whose last argument is a list: caches per item, shared with the operation for one item."""
        single = caching.each or ""
        present = (INTERNAL[single].caching or caching).present
        recent, key_of, epoch_of = self._answers(single, caching), _key_maker(name), self._epoch_reader(caching.scope)
        inner = self._inner

        async def method(*given: Any, **named: Any) -> Any:
            *same, items = key_of(*given, **named)
            keys = {item: (*same, item) for item in items}
            epochs = {item: epoch_of(key) for item, key in keys.items()}
            found = {item: self._counted(recent.get(key, epochs[item])) for item, key in keys.items()}
            if missing := [item for item, answer in found.items() if answer is None]:
                answers = await getattr(inner, name)(*same, missing)
                for item, answer in zip(missing, answers, strict=True):
                    found[item] = answer
                    if present(answer):
                        recent.put(keys[item], epochs[item], answer)
            return tuple(found[item] for item in items)

        return method

    def _by_digest(self, name: str, caching: Caching, bytes_max: int) -> Callable[..., Awaitable[Any]]:
        """Caches `content` once under its digest, which is verified, and the rest of the answer by itself."""
        recent, key_of, epoch_of = self._answers(name, caching), _key_maker(name), self._epoch_reader(caching.scope)
        contents: _Contents[str] = _Contents(bytes_max)
        inner = self._inner

        async def method(*given: Any, **named: Any) -> Any:
            key = key_of(*given, **named)
            epoch = epoch_of(key)
            kept = recent.get(key, epoch)
            content = contents.get(kept.digest) if kept is not None else None
            if self._counted(content) is not None and kept is not None:
                return kept.with_content(content)
            found = await getattr(inner, name)(*given, **named)
            if contents.get(found.digest) != found.content:
                _check_digest(found.digest, found.content)
                contents.put(found.digest, found.content)
            recent.put(key, epoch, found.with_content(b""))
            return found

        return method

    def _by_size(self, name: str, caching: Caching, bytes_max: int) -> Callable[..., Awaitable[Any]]:
        """Caches answers that are immutable bytes, with one bound for all."""
        if caching.scope is not Scope.IMMUTABLE:
            raise TypeError(f"{name}: only answers that never change are cached by their size")
        key_of, bypass = _key_maker(name), caching.bypass
        contents: _Contents[Key] = _Contents(bytes_max)
        inner = self._inner

        async def method(*given: Any, **named: Any) -> Any:
            key = key_of(*given, **{each: value for each, value in named.items() if each != bypass})
            found = None if bypass is not None and named.get(bypass) else self._counted(contents.get(key))
            if found is None:
                found = await getattr(inner, name)(*given, **named)
                if caching.present(found):
                    contents.put(key, found)
            return found

        return method

    def _answers(self, name: str, caching: Caching) -> _Recent[Any]:
        return self._recent.setdefault(
            name, _Recent(self._entries or caching.entries, caching.seconds, self._clock)
        )  # of one operation, which another one may share

    def _epoch_reader(self, scope: Scope) -> Callable[[Key], int | None]:
        """Reads the epoch for an operation's key; None while the page has no valid lease."""
        epochs = self._epochs
        if scope is Scope.IMMUTABLE:
            return lambda key: _FOREVER
        if epochs is None:
            return lambda key: None
        if scope is Scope.IDENTITY:
            return lambda key: epochs.identity() if epochs.lease_valid() else None
        if scope is Scope.REGISTRY:
            return lambda key: epochs.repository(key[0], "") if epochs.lease_valid() else None
        return lambda key: epochs.repository(key[0], key[1]) if epochs.lease_valid() else None

    def _counted(self, found: Value | None) -> Value | None:
        if found is None:
            self._missed()
            return None
        self._hits += 1
        if self._hits == 1:
            asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._settle)
        if self._epochs is not None and self._epochs.in_grace():
            observe.metrics.grace_answers.inc()
        return found

    def _settle(self) -> None:
        self._hit(self._hits)
        self._hits = 0


def _key_maker(name: str) -> Callable[..., Key]:
    """The key of a call: its arguments by position, however they were given."""
    operation = INTERNAL[name]
    names = operation.parameters
    parameters = inspect.signature(operation.run).parameters
    defaults = {each: parameters[each].default for each in names if parameters[each].default is not inspect._empty}
    count = len(names)

    def key_of(*given: Any, **named: Any) -> Key:
        if named or len(given) != count:
            asked = {**defaults, **dict(zip(names, given, strict=False)), **named}
            given = tuple(asked[each] for each in names)
        for each in given:
            if isinstance(each, list):
                return tuple(tuple(one) if isinstance(one, list) else one for one in given)
        return given

    return key_of


class _Recent(Generic[Value]):
    """An LRU of `entries` answers, each valid under one epoch and for `seconds`."""

    def __init__(self, entries: int, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._held = Lru[Key, tuple[int, float, Value]](entries)

    def get(self, key: Key, epoch: int | None) -> Value | None:
        held = self._held.get(key)
        if held is None:
            return None
        at, until, value = held
        if at != epoch or until <= self._clock():
            del self._held[key]
            return None
        return value

    def put(self, key: Key, epoch: int | None, value: Value) -> None:
        """`epoch` was read before the request was sent; None: nothing is cached."""
        if epoch is None:
            return
        self._held[key] = (epoch, self._clock() + self._seconds, value)


class _SharedPolicies:
    """One object for equal policies: a group's policies are in memory once, however many users are in the group, and
    comparing them compares identities."""

    def __init__(self, entries: int) -> None:
        self._held = Lru[AttachedPolicy, AttachedPolicy](entries)

    def replace_policies(self, answer: Any) -> Any:
        """The principal, or the access key and its principal, with the shared policy objects."""
        if isinstance(answer, AccessKey):
            return replace(answer, principal=self.replace_policies(answer.principal))
        principal: Principal = answer
        boundary = principal.boundary and self._one(principal.boundary)
        return replace(principal, policies=tuple(map(self._one, principal.policies)), boundary=boundary)

    def _one(self, policy: AttachedPolicy) -> AttachedPolicy:
        return self._held.setdefault(policy, policy)


Name = TypeVar("Name", bound=Hashable)


class _Contents(Generic[Name]):
    """Bytes by name, at most `bytes_max` of them together; the least recently used are evicted first."""

    def __init__(self, bytes_max: int) -> None:
        self._free = bytes_max
        self._held: OrderedDict[Name, bytes] = OrderedDict()

    def get(self, name: Name) -> bytes | None:
        content = self._held.get(name)
        if content is not None:
            self._held.move_to_end(name)
        return content

    def put(self, name: Name, content: bytes) -> None:
        self._free += len(self._held.pop(name, b"")) - len(content)
        self._held[name] = content
        while self._free < 0:
            _, evicted = self._held.popitem(last=False)
            self._free += len(evicted)


def _check_digest(digest: str, content: bytes) -> None:
    algorithm, _, encoded = digest.partition(":")
    if hashlib.new(algorithm, content).hexdigest() != encoded:
        raise Failure(
            Code.BLOB_CORRUPT,
            f"the stored manifest {digest} does not hash to its digest",
            hint="push it again after deleting it; check the database's disk",
        )
