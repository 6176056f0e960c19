"""A door that listens, for the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from support.aws_handler import AwsHandler


@pytest.fixture
async def door() -> AsyncIterator[AwsHandler]:
    door = AwsHandler()
    await door.begin()
    yield door
    await door.finish()
