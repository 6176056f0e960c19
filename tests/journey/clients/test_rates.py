"""Request rates as clients meet them: what boto3, crane and docker try again by themselves ends well."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from support.images import Layout
from support.programs import run
from support.server import Server

pytestmark = pytest.mark.clients

RATES = "PutImage=1/1,CreateRepository=4/2"


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("limited")
    server = Server.start(folder / "data", workers=2, extra={"WHARFAGE_QUOTAS_RATES": RATES})
    yield server
    server.stop()


def throttled(server: Server, operation: str) -> int:
    with urllib.request.urlopen(f"{server.url}/metrics") as answer:  # noqa: S310 - http, to our own server
        text = answer.read().decode()
    found = re.search(rf'^wharfage_throttled_total{{operation="{operation}"}} (\S+)', text, re.MULTILINE)
    return int(float(found[1])) if found else 0


@pytest.mark.needs("crane")
def test_a_push_by_crane_waits_and_ends_well(limited: Server, small_image: Layout, tmp_path: Path) -> None:
    """Three tags, a manifest a second; each is there afterwards."""
    basic = base64.b64encode(f"AWS:{limited.password()}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {limited.address: {"auth": basic}}}))
    before = throttled(limited, "PutImage")
    for tag in ("v1", "v2", "v3"):
        reference = f"{limited.address}/by-crane:{tag}"
        extra = {"DOCKER_CONFIG": str(tmp_path)}
        run("crane", "push", small_image.path, reference, "--insecure", extra=extra)
        assert run("crane", "digest", reference, "--insecure", extra=extra).stdout.strip() == small_image.digest
    assert throttled(limited, "PutImage") > before


async def test_boto3_waits_and_ends_well(limited: Server) -> None:
    """Twelve repositories at four a second; who does not try again is told Throttling by name."""
    key, secret = limited.credentials()
    names = iter(range(100))

    def client(attempts: int) -> Any:
        return boto3.client(
            "ecr",
            endpoint_url=limited.url,
            region_name="us-east-1",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            config=Config(retries={"total_max_attempts": attempts, "mode": "standard"}),
        )

    patient, hasty = client(12), client(1)
    before = throttled(limited, "CreateRepository")
    making = [
        asyncio.to_thread(patient.create_repository, repositoryName=f"app/{number}")
        for number, _ in zip(names, range(12), strict=False)
    ]
    await asyncio.gather(*making)
    assert throttled(limited, "CreateRepository") > before

    def all_at_once() -> None:
        for number, _ in zip(names, range(20), strict=False):
            hasty.create_repository(repositoryName=f"app/{number}")

    with pytest.raises(ClientError, match=r"\(ThrottlingException\).*: Rate exceeded"):
        await asyncio.to_thread(all_at_once)
