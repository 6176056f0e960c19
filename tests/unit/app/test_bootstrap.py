"""The administrator's key at a start: made once, replaced by the settings, and a file that is of no use is told of."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from structlog.testing import capture_logs

from proxy.app import keys, worker
from proxy.auth.managed import ADMINISTRATOR_ACCESS
from proxy.config.loader import load
from proxy.metadata.operations.iam import IAM
from proxy.runtime import data_directory

GIVEN = {"keys.access_key_id": "AKIAAAAAAAAAAAAAAAAA", "keys.secret_access_key": "a-secret-of-some-length"}


def start(folder: Path, *then: tuple[str, dict[str, str]], **more: str) -> tuple[list[str], list[str]]:
    """The keys in force after a start of the metadata service, and what it said; `then` are operations of IAM that are
    done before it ends."""
    config = load(None, {"server.data": str(folder), **more}, environ={})
    data = data_directory.open_data(config)
    masters = keys.master_keys(config, data)

    async def run() -> list[str]:
        async with worker.metadata_service(config, data, masters) as service:
            account = config.registry.account
            for operation, parameters in then:
                await service.store.write(partial(IAM[operation].run, account=account, parameters=parameters))
            return list((await service.bootstrap(account)).access_key_ids)

    with capture_logs() as said:
        return asyncio.run(run()), [line["event"] for line in said]


def test_the_first_start_makes_a_key_and_says_so_and_the_next_one_keeps_it(tmp_path: Path) -> None:
    held, said = start(tmp_path)
    [key] = held
    written = data_directory.read_credentials(tmp_path / "credentials")
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


def test_a_key_that_was_deleted_stays_so_and_the_settings_give_another_one(tmp_path: Path) -> None:
    [made], _ = start(tmp_path)
    gone = ("DeleteAccessKey", {"UserName": "administrator", "AccessKeyId": made})
    assert start(tmp_path, gone)[0] == []
    held, said = start(tmp_path)
    assert held == []
    assert any("of no use" in event for event in said)
    assert start(tmp_path, **GIVEN) == ([GIVEN["keys.access_key_id"]], [])


def test_what_a_key_of_the_settings_gives_back_to_an_administrator_is_told(tmp_path: Path) -> None:
    start(tmp_path)
    boundary = {"UserName": "administrator", "PermissionsBoundary": ADMINISTRATOR_ACCESS}
    start(tmp_path, ("PutUserPermissionsBoundary", boundary))
    _, said = start(tmp_path)
    assert said == []
    _, said = start(tmp_path, **GIVEN)
    assert any("an administrator again" in event for event in said)
    _, said = start(tmp_path, **GIVEN)
    assert said == []
