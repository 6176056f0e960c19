"""What was once written stays readable: the files of `tests/golden`, never changed, read with today's code."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from _speedups import pure
from proxy.blob.buffers import BufferPool
from proxy.blob.keys import DataKey
from proxy.blob.local_keys import LocalKeys
from proxy.blob.master_file import MasterKeys
from proxy.model.records import EncryptedDataKey, Segment
from support.memory_store import MemoryStore
from support.sealed_objects import Written, read_range, sealed_object

GOLDEN = Path(__file__).parents[2] / "golden"
OBJECTS: dict[str, Any] = json.loads((GOLDEN / "objects.json").read_text())
STATES: list[dict[str, str]] = json.loads((GOLDEN / "states.json").read_text())
STORED = {name: (GOLDEN / f"{name}.sealed").read_bytes() for name in OBJECTS}


@pytest.fixture
def golden_keys(tmp_path: Path) -> LocalKeys:
    """git keeps no 0600, and the loader insists on it."""
    copy = tmp_path / "keys.json"
    shutil.copyfile(GOLDEN / "keys.json", copy)
    copy.chmod(0o600)
    return LocalKeys(MasterKeys.load_or_create(copy))


@pytest.mark.parametrize("name", list(OBJECTS))
async def test_a_golden_object_opens(memory: MemoryStore, golden_keys: LocalKeys, pool: BufferPool, name: str) -> None:
    row = OBJECTS[name]
    encrypted = EncryptedDataKey(
        row["provider_id"], base64.b64decode(row["provider_info"]), base64.b64decode(row["data_key"])
    )
    table = tuple(
        Segment(plain_offset, plain_length, stored_offset, stored_length, base64.b64decode(header))
        for plain_offset, plain_length, stored_offset, stored_length, header in row["segments"]
    )
    data_key = await golden_keys.unwrap(encrypted, row["sealed_for"])
    sealed = sealed_object("0" * 32, DataKey(data_key, encrypted), row["frame_length"], table)
    memory.objects["0" * 32] = bytearray(STORED[name])
    whole = await read_range(memory, Written(sealed, data_key, b"", table), 0, sealed.plain_size, pool)
    assert hashlib.sha256(whole).hexdigest() == row["sha256"]


@pytest.mark.parametrize("twin", ["native", "pure"])
@pytest.mark.parametrize("state", STATES, ids=lambda state: f"{state['algorithm']}-{len(state['state']) // 2}")
def test_a_golden_hash_state_resumes(twin: str, state: dict[str, str]) -> None:
    resume: Any = pure.resume
    if twin == "native":
        resume = pytest.importorskip(
            "_speedups.native", reason="needs _speedups.native", exc_type=ModuleNotFoundError
        ).resume
    hasher = resume(bytes.fromhex(state["state"]))
    hasher.update(bytes.fromhex(state["then"]))
    assert hasher.name == state["algorithm"]
    assert hasher.digest().hex() == state["digest"]
