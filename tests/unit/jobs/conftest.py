"""A registry's rooms for upkeep to work on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.upkeep_rows import House, open_house


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A registry of its own for each test, with every buffer back at the end."""
    async with open_house(tmp_path) as opened:
        yield opened
