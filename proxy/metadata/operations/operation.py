"""How a function becomes an operation of the service: one decorator above it, from which all else follows.

    @operation(Blobs, caching=Caching(Scope.REPOSITORY))
    def blob(tx: Transaction, account: str, repository: str, digest: str) -> Blob: ...

The service decodes arguments by the function's annotations and finds the function in `INTERNAL`; the proxy's client has
a method of that name, typed by `port`, and its cache does what `caching` says. Where a call carries more than callers
say, or callers say more than it carries (`nonce`, `Caching.bypass`), it is declared here too; a unit test holds that
port and function agree in everything else. Used by every module of `operations`; must not know any operation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

KEEP_SECONDS = 1800.0  # below the hour after which the service renews a blob's grace: it has to be asked to do so
ENTRIES = 20_000  # of one operation; a blob row is about 1 KiB


class Scope(Enum):
    """Which epoch a cached answer hangs on: it is valid while that has not changed since before the question."""

    IDENTITY = auto()
    REPOSITORY = auto()  # of the first two parameters, account and repository
    REGISTRY = auto()  # of the first parameter, the account
    IMMUTABLE = auto()  # on none: valid for ever


def _is_there(answer: Any) -> bool:
    return answer is not None


@dataclass(frozen=True, slots=True)
class Caching:
    """What workers cache of an operation's answers: those that say something is there, by all parameters.

    Absence is never cached; `present` tells it from an answer. At most `entries` answers of the operation are kept, or
    where `bytes_max` is given so many bytes of them, each for `seconds`.
    - `shares_policies`: equal policies of different answers are kept once.
    - `by_digest`: the `content` of an answer is kept apart under its `digest`, which it must hash to, in `bytes_max`.
    - `each`: the answer is a sequence with one answer of that operation for each item of the last parameter; it shares
      that operation's cache, and only what is not there is asked for.
    - `bypass`: a parameter that only the cache sees; what is cached already will not do.
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
    """What is known of an operation besides its name.

    `write` says which kind of transaction it needs; `prepare` turns a request's parameters into those of `run`, before
    the transaction. `settles`: a write that finds by itself that it was done before, also when others came after it,
    and so needs no stored answer (`service.idempotency`). `durable` False: what it writes may be lost by a machine that
    loses its power, with everybody who read it (`store.Database.write`).
    `port` is the Protocol that callers are typed by, None for ECR's and IAM's, which are called by name. `nonce` is a
    parameter that the client draws for each call: 32 hexadecimal digits, the same in every attempt at it."""

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
        """What a request carries, by name and in the function's order."""
        names = inspect.signature(self.prepare or self.run).parameters
        return tuple(name for name in names if name != "tx")


INTERNAL: dict[str, Operation] = {}
"""What a proxy's own code asks, by name."""

ECR: dict[str, Operation] = {}
"""ECR's operations by the model's name. What is not here is refused as unknown."""


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
