"""An account of its own for each test that asks, and the real aws command of its administrator."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from harness.accounts import open_account
from harness.awscommand import Aws
from harness.server import Server


@pytest.fixture
def account() -> str:
    return str(random.SystemRandom().randrange(10**11, 10**12))


@pytest.fixture
def aws(server: Server, account: str, tmp_path: Path) -> Aws:
    """The administrator of a new account."""
    return Aws(server.url, tmp_path, open_account(server, account))
