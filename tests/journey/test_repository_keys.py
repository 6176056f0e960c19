"""Repositories with KMS keys of their own, by the real aws command and crane, over moto and a KMS that refuses."""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.aws_command import Aws, said
from support.fake_kms import ARN, fake_kms
from support.images import MIB, check_layout, write_layout
from support.moto import Moto
from support.programs import run
from support.server import Server

pytestmark = [pytest.mark.clients, pytest.mark.needs("aws", "crane")]

Start = Callable[..., Server]


class Crane:
    """crane, logged in as the administrator."""

    def __init__(self, server: Server, folder: Path) -> None:
        basic = base64.b64encode(f"AWS:{server.password()}".encode()).decode()
        (folder / "config.json").write_text(json.dumps({"auths": {server.address: {"auth": basic}}}))
        self._address = server.address
        self._extra = {"DOCKER_CONFIG": str(folder)}

    def push(self, layout: Path, name: str) -> None:
        run("crane", "push", layout, f"{self._address}/{name}", "--insecure", extra=self._extra)

    def pull(self, name: str, into: Path) -> None:
        run("crane", "pull", "--format=oci", f"{self._address}/{name}", into, "--insecure", extra=self._extra)

    def is_refused(self, name: str) -> str:
        """What it says as it fails to read the manifest."""
        return run("crane", "manifest", f"{self._address}/{name}", "--insecure", extra=self._extra, ok=False).stderr


def create(aws: Aws, name: str, configuration: str) -> dict[str, str]:
    made = aws(f"aws ecr create-repository --repository-name {name} --encryption-configuration {configuration}")
    found: dict[str, str] = made["repository"]["encryptionConfiguration"]
    return found


def blobs(server: Server) -> list[tuple[str, str, str]]:
    """Digest, key of its repositories, and who wrapped its data key, of every blob."""
    with closing(sqlite3.connect(f"file:{server.data / 'metadata.db'}?mode=ro", uri=True)) as rows:
        found = rows.execute("SELECT digest, encryption, provider_info FROM blobs ORDER BY digest, encryption")
        return [(digest, own, bytes(info).decode(errors="replace")) for digest, own, info in found]


def test_each_repositorys_images_are_under_its_own_key_and_shared_where_it_is_the_same(
    start_server: Start, moto: Moto, tmp_path: Path
) -> None:
    """The server's own data keys are in a file: its `rewrap` moves those, and no repository's key."""
    servers, one, two = moto.new_key(), moto.new_key(), moto.new_key()
    moto.client().create_alias(AliasName="alias/one", TargetKeyId=one)
    settings = moto.settings(servers, provider="local")
    server = start_server(tmp_path / "data", workers=1, extra=settings)
    aws = Aws(server.url, tmp_path, server.credentials())
    crane = Crane(server, tmp_path)
    assert create(aws, "one/a", "encryptionType=KMS,kmsKey=alias/one") == {"encryptionType": "KMS", "kmsKey": one}
    assert create(aws, "one/b", f"encryptionType=KMS,kmsKey={one.rpartition('/')[2]}")["kmsKey"] == one
    assert create(aws, "two/a", f"encryptionType=KMS,kmsKey={two}")["kmsKey"] == two
    assert create(aws, "managed/a", "encryptionType=KMS") == {"encryptionType": "KMS", "kmsKey": servers}
    assert create(aws, "none/a", "encryptionType=AES256") == {"encryptionType": "AES256"}
    error = said(
        aws.error(
            "aws ecr create-repository --repository-name no/key"
            " --encryption-configuration encryptionType=KMS,kmsKey=alias/nowhere"
        )
    )
    assert error == ("KmsException", "the key management service refused: the key does not exist")

    image = write_layout(tmp_path / "image", 7, (MIB, 2 * MIB))
    names = ("one/a", "one/b", "two/a", "managed/a", "none/a")
    for name in names:
        crane.push(image.path, f"{name}:v1")
    found = blobs(server)
    assert len({digest for digest, _, _ in found}) == 3  # two layers and a config
    assert sorted({own for _, own, _ in found}) == sorted({"", servers, one, two})
    assert len(found) == 3 * 4
    assert len(server.objects()) == 3 * 4
    assert all(info == own for _, own, info in found if own)

    before = found
    done = run(sys.executable, "-m", "proxy", "rewrap", "--data", server.data, extra=settings)
    assert "3 data keys rewrapped, 9 were already" in done.stdout + done.stderr
    after = blobs(server)
    assert [row for row in after if row[1]] == [row for row in before if row[1]]
    for name in names:
        crane.pull(f"{name}:v1", tmp_path / "back" / name)
        check_layout(tmp_path / "back" / name, image)
    assert server.stop() == 0
    checked = run(sys.executable, "-m", "proxy", "check", "--data", server.data, extra=settings)
    assert "Traceback" not in checked.stderr


async def test_a_key_that_is_disabled_hides_its_images_until_it_is_enabled(start_server: Start, tmp_path: Path) -> None:
    own = "arn:aws:kms:us-east-1:123456789012:key/own"
    async with fake_kms() as kms:
        kms.named |= {own: own, "alias/own": own}
        settings = {
            "WHARFAGE_KEYS_KEY_ID": ARN,
            "WHARFAGE_KEYS_ENDPOINT": kms.url,
            "WHARFAGE_KEYS_KMS_ACCESS_KEY_ID": "AKIAKMSOFTHETESTS",
            "WHARFAGE_KEYS_KMS_SECRET_ACCESS_KEY": "secret",
            "WHARFAGE_KEYS_CACHE_SECONDS": "1",
        }
        await asyncio.to_thread(_hide_and_show, start_server, tmp_path, settings, kms.refused, own)


def _hide_and_show(
    start_server: Start, folder: Path, settings: dict[str, str], refused: dict[str, str], own: str
) -> None:
    server = start_server(folder / "data", workers=1, extra=settings)
    aws = Aws(server.url, folder, server.credentials())
    crane = Crane(server, folder)
    create(aws, "own/app", "encryptionType=KMS,kmsKey=alias/own")
    image = write_layout(folder / "image", 7, (MIB,))
    crane.push(image.path, "own/app:v1")

    def batch() -> Any:
        return aws("aws ecr batch-get-image --repository-name own/app --image-ids imageTag=v1")

    assert len(batch()["images"]) == 1
    refused[own] = "DisabledException"
    until(lambda: not batch()["images"])
    [failure] = batch()["failures"]
    assert failure["failureCode"] == "KmsError"
    assert "the key is disabled" in failure["failureReason"]
    assert "the key is disabled" in crane.is_refused("own/app:v1")
    del refused[own]
    until(lambda: bool(batch()["images"]))
    crane.pull("own/app:v1", folder / "back")
    check_layout(folder / "back", image)
    assert server.stop() == 0


def until(found: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.2)
