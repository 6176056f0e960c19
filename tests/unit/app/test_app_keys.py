"""Which keys the settings name: when a key file is made, and when it must be there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.app import keys
from proxy.blob.master_file import KeyFileError, MasterKeys
from proxy.config.loader import load
from proxy.config.settings import Config
from proxy.runtime.data_directory import DataDirectory, open_data

ARN = "arn:aws:kms:eu-west-1:123456789012:key/1"
ELSEWHERE = {"metadata.url": "https://10.0.0.5:5050", "metadata.secret": "a-shared-secret-of-some-length"}


def settings(folder: Path, **more: Any) -> tuple[Config, DataDirectory]:
    given = {name.replace("__", "."): value for name, value in more.items()}
    config = load(None, {"server.data": str(folder / "data"), **given}, environ={})
    return config, open_data(config)


def test_the_very_first_start_makes_the_key_file(tmp_path: Path) -> None:
    config, data = settings(tmp_path)
    made = keys.master_keys(config, data)
    assert made is not None
    assert MasterKeys.load(data.master_keys).active == made.active


def test_a_proxy_of_a_service_elsewhere_makes_none_and_uses_what_it_was_given(tmp_path: Path) -> None:
    config, data = settings(tmp_path, **ELSEWHERE)
    with pytest.raises(KeyFileError, match="copy that file from a node that serves"):
        keys.master_keys(config, data)
    assert not data.master_keys.exists()
    made = MasterKeys.load_or_create(data.master_keys)
    found = keys.master_keys(config, data)
    assert found is not None
    assert found.active == made.active


def test_rows_without_their_keys_get_no_new_ones(tmp_path: Path) -> None:
    """A data directory that was restored without its keys folder."""
    config, data = settings(tmp_path)
    data.database.touch()
    with pytest.raises(KeyFileError, match="or a backup"):
        keys.master_keys(config, data)
    assert not data.master_keys.exists()


def test_under_kms_no_file_is_made_and_one_that_is_there_is_read(tmp_path: Path) -> None:
    config, data = settings(tmp_path, keys__provider="kms", keys__key_id=ARN)
    assert keys.master_keys(config, data) is None
    assert not data.master_keys.exists()
    MasterKeys.load_or_create(data.master_keys)
    assert keys.master_keys(config, data) is not None


@pytest.mark.parametrize(
    ("given", "region"),
    [
        ({}, "eu-west-1"),
        ({"keys__region": "us-west-2"}, "us-west-2"),
        ({"keys__key_id": "alias/registry", "registry__region": "eu-north-1"}, "eu-north-1"),
    ],
    ids=["of the ARN", "given", "the registry's"],
)
async def test_the_region_is_the_given_one_else_the_arns_else_the_registrys(
    tmp_path: Path, given: dict[str, str], region: str
) -> None:
    config = load(None, {name.replace("__", "."): value for name, value in ({"keys__key_id": ARN} | given).items()}, {})
    kms = keys._kms(config, "arn")
    assert kms._kms.endpoint.region == region
    await kms.close()
