"""The bench of each test: at its end nothing may be open, lent or leased."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes.bench import Bench
from fakes.faulty import Faults
from fakes.whole_registry import whole_registry

from proxy.model.records import Sealing


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
