"""The seed of a run's random numbers."""

from __future__ import annotations

import random

import pytest


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    given: int | None = request.config.getoption("--chaos-seed")
    return random.SystemRandom().getrandbits(32) if given is None else given
