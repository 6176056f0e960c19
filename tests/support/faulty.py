"""A wrapper that makes any store or metadata fail, stall, or be cancelled at a chosen call, and passes the rest on.

`faults.before["put_manifest"] = raising(Failure(...))` runs before the real call, `after` once it has succeeded (an
answer that got lost). `faults.calls` has the names of all calls in order. Appenders and readers that a wrapped store
hands out are wrapped too, under the names `appender.append`, `reader.read_into`…
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from proxy.metadata.operations import INTERNAL

Fault = Callable[[], Awaitable[None]]


class Faults:
    def __init__(self) -> None:
        self.before: dict[str, Fault] = {}
        self.after: dict[str, Fault] = {}
        self.calls: list[str] = []
        self._called = asyncio.Event()

    def note(self, name: str) -> None:
        self.calls.append(name)
        self._called.set()

    async def called(self, name: str, times: int = 1) -> None:
        """Return once `name` has been called so often."""
        while self.calls.count(name) < times:
            self._called.clear()
            await self._called.wait()

    def wrap(self, inner: Any) -> Any:
        return _Wrapped(inner, self, "")


class _Wrapped:
    def __init__(self, inner: Any, faults: Faults, prefix: str) -> None:
        self._inner = inner
        self._faults = faults
        self._prefix = prefix

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not inspect.iscoroutinefunction(found) and name not in INTERNAL:  # derived methods return awaitables
            return found
        called = self._prefix + name

        async def call(*args: Any, **kwargs: Any) -> Any:
            faults = self._faults
            faults.note(called)
            if called in faults.before:
                await faults.before[called]()
            result = await found(*args, **kwargs)
            if called in faults.after:
                await faults.after[called]()
            if hasattr(result, "pause"):
                return _Wrapped(result, faults, "appender.")
            return _Wrapped(result, faults, "reader.") if hasattr(result, "read_into") else result

        return call

    async def __aenter__(self) -> Any:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._inner.__aexit__(*error)


def raising(error: BaseException, times: int = 1) -> Fault:
    """Raise `error` the first `times` times, then nothing."""
    left = times

    async def fault() -> None:
        nonlocal left
        if left:
            left -= 1
            raise error

    return fault


class Gate:
    """A fault that waits: `reached` is set when a call has come to it, and it goes on after `open`."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._open = asyncio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        await self._open.wait()

    def open(self) -> None:
        self._open.set()
