"""The decorator that registers a function as an operation of the service.

    @operation(Blobs, caching=Caching(Scope.REPOSITORY))
    def blob(tx: Transaction, account: str, repository: str, digest: str) -> Blob: ...

The service decodes arguments by the function's annotations and finds the function in `INTERNAL`; the proxy's client has
a method of that name, typed by `port`, and its cache follows `caching`. Parameters that only the request or only the
caller has (`nonce`, `Caching.bypass`) are declared here too; a unit test checks that port and function agree in all
others. Used by every module of `operations`; must not know any operation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

KEEP_SECONDS = 1800.0  # below the hour after which a read renews a blob's grace: reads must reach the service for it
ENTRIES = 20_000  # of one operation; a blob row is about 1 KiB


class Scope(Enum):
    """The epoch that a cached answer depends on: it is valid while the epoch read before the request is current."""

    IDENTITY = auto()
    REPOSITORY = auto()  # that of the first two parameters, account and repository
    REGISTRY = auto()  # that of the first parameter, the account
    IMMUTABLE = auto()  # none: valid for ever


def _is_there(answer: Any) -> bool:
    return answer is not None


@dataclass(frozen=True, slots=True)
class Caching:
    """How workers cache an operation's answers, by all parameters.

    Absence is never cached; `present` distinguishes it. At most `entries` answers of the operation are cached, or with
    `bytes_max` so many bytes of them, each for `seconds`.
    - `shares_policies`: equal policies of different answers are one object.
    - `by_digest`: an answer's `content` is cached apart under its `digest`, which is verified, within `bytes_max`.
    - `each`: the answer is a sequence with one answer of that operation for each item of the last parameter; it shares
      that operation's cache, and only missing items are requested.
    - `bypass`: a parameter that only the cache sees: True skips the cached answer.
    """

    scope: Scope
    present: Callable[[Any], bool] = _is_there
    seconds: float = KEEP_SECONDS
    entries: int = ENTRIES
    bytes_max: int | None = None
    shares_policies: bool = False
    by_digest: bool = False
    each: str | None = None
    bypass: str | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """The definition of an operation.

    `write`: it needs a write transaction. `prepare` turns a request's parameters into those of `run`, before the
    transaction. `settles`: the write detects that it was done before, even after others, and so needs no stored answer
    (`service.idempotency`). `durable` False: a power cut may lose what it writes (`store.Database.write`). `port` is
    the callers' Protocol, None for ECR's and IAM's operations, which are called by name. `nonce` is a parameter that
    the client generates for each call: 32 hexadecimal digits, the same in every attempt."""

    run: Callable[..., Any]
    write: bool = False
    settles: bool = False
    durable: bool = True
    prepare: Callable[..., dict[str, Any]] | None = None
    port: type | None = None
    caching: Caching | None = None
    nonce: str | None = None

    @property
    def parameters(self) -> tuple[str, ...]:
        """A request's parameters by name, in the function's order."""
        names = inspect.signature(self.prepare or self.run).parameters
        return tuple(name for name in names if name != "tx")


INTERNAL: dict[str, Operation] = {}
"""Internal operations, called by the proxy's own code, by name."""

ECR: dict[str, Operation] = {}
"""ECR's operations by the model's name. Others are refused as unknown."""


def operation(
    port: type,
    *,
    name: str = "",
    write: bool = False,
    settles: bool = False,
    durable: bool = True,
    prepare: Callable[..., dict[str, Any]] | None = None,
    caching: Caching | None = None,
    nonce: str | None = None,
) -> Callable[[Function], Function]:
    """Register the function under its own name, or `name`, with the annotations and defaults that `port` has."""

    def register(function: Function) -> Function:
        found = Operation(function, write, settles, durable, prepare, port, caching, nonce)
        _add(INTERNAL, name or function.__name__, found)
        return function

    return register


def ecr_operation(
    name: str, *, write: bool = False, prepare: Callable[..., dict[str, Any]] | None = None
) -> Callable[[Function], Function]:
    """Register `(transaction, account, parameters) -> output` under a name of botocore's `ecr` model."""

    def register(function: Function) -> Function:
        _add(ECR, name, Operation(function, write, prepare=prepare))
        return function

    return register


def _add(table: dict[str, Operation], name: str, found: Operation) -> None:
    if name in table:
        raise TypeError(f"two operations are called {name}")
    table[name] = found
