"""What several contract suites of the metadata service share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.metadata.db.transaction import Registry
from support.metadata import CLIENTS, SERVICES, WORLDS, Clock, World, on_each_service


@pytest.fixture
def registry() -> Registry:
    """What a module with quotas of its own overrides."""
    return Registry()


@pytest.fixture(params=on_each_service(WORLDS))
async def world(request: pytest.FixtureRequest, tmp_path: Path, registry: Registry) -> AsyncIterator[World]:
    service_name, _, client_name = request.param.partition("-")
    clock = Clock()
    service = await SERVICES[service_name](tmp_path, clock, registry)
    metadata = await CLIENTS[client_name](tmp_path)
    yield World(metadata, service, clock)
    await metadata.close()
    await service.close()
