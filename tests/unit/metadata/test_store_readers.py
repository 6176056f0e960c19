"""Reads that find every session of the database busy."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection

from proxy.metadata.db import store as stores
from proxy.metadata.db.store import Store
from proxy.model.errors import Code, Failure


class Stuck:
    """A database of one session, which answers when it is let."""

    readers = 1
    beat_seconds = None

    def __init__(self) -> None:
        self.answers = threading.Event()

    def read(self, run: Callable[[Connection], Any]) -> Any:
        self.answers.wait(60)
        return run(None)  # type: ignore[arg-type]  # what is run here asks nothing of it

    def write(self, run: Callable[[Connection], Any], *, durable: bool = True) -> Any:
        raise NotImplementedError

    announce = write

    def now(self, connection: Connection | None = None) -> float:
        return 0.0

    def beat(self) -> None: ...

    def close(self) -> None: ...


async def test_a_read_waits_for_a_free_session_for_so_long_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "READER_SECONDS", 0.1)
    database = Stuck()
    store = Store(database)  # type: ignore[arg-type]  # it announces nothing
    first = asyncio.create_task(store.read(lambda tx: 1))
    await asyncio.sleep(0)
    for _ in range(3):
        with pytest.raises(Failure) as caught:
            await asyncio.wait_for(store.read(lambda tx: 2), 30)
        assert caught.value.code is Code.METADATA_UNAVAILABLE
    database.answers.set()
    assert await first == 1
    assert await store.read(lambda tx: 3) == 3
    await store.close()
