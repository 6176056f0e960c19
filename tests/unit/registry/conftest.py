"""The bench of each test: at its end nothing may be open, lent or leased."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.model.records import Sealing
from support.failing_registry import Bench
from support.faulty import Faults
from support.whole_registry import whole_registry


@pytest.fixture(params=Sealing)
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """Once with sealed blobs and once with plain ones: no journey is another for them."""
    faults = Faults()
    async with whole_registry(
        tmp_path, wrap_metadata=faults.wrap, wrap_store=faults.wrap, sealing=request.param
    ) as registry:
        found = Bench(registry, faults, tmp_path / "objects")
        yield found
        faults.before.clear()
        faults.after.clear()
        found.check_clean()
