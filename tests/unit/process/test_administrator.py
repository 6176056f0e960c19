"""The administrator's key at a start: made once, replaced by the settings, and a file that is of no use is told of."""

from __future__ import annotations

import asyncio
from pathlib import Path

from structlog.testing import capture_logs

from proxy import keyring, server
from proxy.config import load
from proxy.process import datadir

GIVEN = {"keys.access_key_id": "AKIAAAAAAAAAAAAAAAAA", "keys.secret_access_key": "a-secret-of-some-length"}


def start(folder: Path, **more: str) -> tuple[list[str], list[str]]:
    """The keys in force after a start of the metadata service, and what it said."""
    config = load(None, {"server.data": str(folder), **more}, environ={})
    data = datadir.open_data(config)
    masters = keyring.master_keys(config, data)

    async def run() -> list[str]:
        async with server.metadata_service(config, data, masters) as service:
            return list((await service.bootstrap(config.registry.account)).access_key_ids)

    with capture_logs() as said:
        return asyncio.run(run()), [line["event"] for line in said]


def test_the_first_start_makes_a_key_and_says_so_and_the_next_one_keeps_it(tmp_path: Path) -> None:
    held, said = start(tmp_path)
    [key] = held
    written = datadir.read_credentials(tmp_path / "credentials")
    assert written is not None
    assert written[0] == key
    assert any("on this host only" in event for event in said)
    assert start(tmp_path) == ([key], [])


def test_a_key_of_the_settings_takes_the_place_of_the_one_in_force_and_says_so(tmp_path: Path) -> None:
    start(tmp_path)
    held, said = start(tmp_path, **GIVEN)
    assert held == [GIVEN["keys.access_key_id"]]
    assert any("is void" in event for event in said)
    assert start(tmp_path, **GIVEN) == (held, [])


def test_credentials_that_are_not_in_force_are_told_of_and_left_alone(tmp_path: Path) -> None:
    start(tmp_path)
    before = (tmp_path / "credentials").read_bytes()
    held, _ = start(tmp_path, **GIVEN)
    again, said = start(tmp_path)
    assert again == held
    assert any("of no use" in event for event in said)
    assert (tmp_path / "credentials").read_bytes() == before
