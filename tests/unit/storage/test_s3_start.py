"""A server whose objects lie in a folder never loads what asks S3: it costs each process 0.3 s and 30 MB."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.programs import ROOT

PROGRAM = """
import asyncio, sys
from pathlib import Path
from proxy.app import health, processes, stores, worker
from proxy.app.metadata import metadata_client
from proxy.cli import main
from proxy.config import loader
from proxy.runtime.data_directory import open_data

bucket = {"storage.bucket": "a-bucket"} if sys.argv[2] == "s3" else {}
found = loader.load(None, {"server.data": sys.argv[1], "storage.backend": sys.argv[2]} | bucket)
data = open_data(found)
stores.preload(found)

async def make_store():
    client = metadata_client(found, data)
    store = await stores.make_store(found, data, client)
    await store.close()
    await client.close()

asyncio.run(make_store())
parts = ("aiobotocore", "botocore.client", "botocore.session", "botocore.handlers", "proxy.storage.s3.bucket")
print(sorted(name for name in sys.modules if name.startswith(parts)))
"""


@pytest.mark.parametrize(("backend", "loads"), [("filesystem", False), ("s3", True)])
def test_only_a_server_on_s3_loads_its_client(
    tmp_path_factory: pytest.TempPathFactory, backend: str, loads: bool
) -> None:
    folder = tmp_path_factory.mktemp("start") / "data"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), backend], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout.strip() != "[]") == loads, done.stdout
