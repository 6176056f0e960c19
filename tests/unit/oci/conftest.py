"""A whole registry for each test of the door, and a client of it; at the end no buffer may be lent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from support.whole_registry import WholeRegistry, whole_registry


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[WholeRegistry]:
    async with whole_registry(tmp_path) as found:
        yield found
    assert found.pool.in_use == 0


@pytest.fixture
async def http(registry: WholeRegistry) -> AsyncIterator[aiohttp.ClientSession]:
    async with registry.client() as session:
        yield session
