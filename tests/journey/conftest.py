"""An account of its own for each test that asks, and the real aws command of its administrator."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from support.accounts import open_account
from support.aws_command import Aws
from support.server import Server


@pytest.fixture
def account() -> str:
    return str(random.SystemRandom().randrange(10**11, 10**12))


@pytest.fixture
def aws(server: Server, account: str, tmp_path: Path) -> Aws:
    """The administrator of a new account."""
    return Aws(server.url, tmp_path, open_account(server, account))
