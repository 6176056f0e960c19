"""Makes the golden files that are not there yet: `PYTHONPATH=.:tests python tests/golden/make_golden.py`.

Never changes one that is: what it wrote once is what stores hold.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import _speedups
from proxy.blob.buffers import BufferPool
from proxy.blob.format import parse_header
from proxy.blob.keys import DataKey
from proxy.blob.local_keys import LocalKeys
from proxy.blob.master_file import MasterKeys
from proxy.model.records import Segment
from support.encryption_sdk import sdk_encrypt
from support.memory_store import MemoryStore
from support.sealed_objects import ARN, Written, sealed_object, write_messages

FOLDER = Path(__file__).parent
FRAME_LENGTH = 128  # the SDK writes multiples of 128 only


def plaintext(name: str, size: int) -> bytes:
    return hashlib.shake_256(name.encode()).digest(size)


def row(written: Written) -> dict[str, Any]:
    def text(value: bytes) -> str:
        return base64.b64encode(value).decode()

    sealed = written.sealed
    return {
        "sha256": written.digest.hex(),
        "sealed_for": sealed.sealed_for,
        "frame_length": sealed.frame_length,
        "provider_id": sealed.data_key.provider_id,
        "provider_info": text(sealed.data_key.provider_info),
        "data_key": text(sealed.data_key.ciphertext),
        "segments": [
            [s.plain_offset, s.plain_length, s.stored_offset, s.stored_length, text(s.header)] for s in written.table
        ],
    }


async def objects(masters: MasterKeys) -> tuple[dict[str, Written], dict[str, bytes]]:
    store, pool, local = MemoryStore(), BufferPool(), LocalKeys(masters)
    rows: dict[str, Written] = {}

    async def add(name: str, sizes: list[int]) -> None:
        messages = [[plaintext(f"{name} {number}", size)] for number, size in enumerate(sizes)]
        rows[name] = await write_messages(
            store, messages, await local.generate(ARN), pool=pool, frame_length=FRAME_LENGTH, key=_key(name)
        )

    await add("one-message", [1000])
    await asyncio.to_thread(masters.rotate)
    await add("exact-multiple", [4 * FRAME_LENGTH])
    await add("empty", [0])
    await add("five-messages", [100, 0, FRAME_LENGTH, 0, 333])

    name, plain = "by-the-sdk", plaintext("by-the-sdk 0", 500)
    stored = await asyncio.to_thread(sdk_encrypt, plain, masters.export()[0], {"aws:ecr:arn": ARN}, FRAME_LENGTH)
    header = parse_header(stored)
    table = (Segment(0, len(plain), 0, len(stored), stored[: header.length]),)
    data_key = DataKey(b"", header.data_keys[0])
    rows[name] = Written(
        sealed_object(_key(name), data_key, FRAME_LENGTH, table), b"", hashlib.sha256(plain).digest(), table
    )
    store.objects[_key(name)] = bytearray(stored)
    await store.close()
    return rows, {name: bytes(store.objects[_key(name)]) for name in rows}


def states() -> list[dict[str, str]]:
    made = []
    for algorithm in ("sha256", "sha512"):
        for before in (0, 1, 64, 127, 128, 1000):
            hasher = getattr(_speedups, algorithm)()
            first, second = plaintext("before", before), plaintext("after", 200)
            hasher.update(first)
            state = hasher.export()
            made.append(
                {
                    "algorithm": algorithm,
                    "state": state.hex(),
                    "then": second.hex(),
                    "digest": hashlib.new(algorithm, first + second).hexdigest(),
                }
            )
    return made


def main() -> None:
    if (FOLDER / "objects.json").exists():
        raise SystemExit("the golden files are there, and are never changed")
    masters = MasterKeys.load_or_create(FOLDER / "keys.json")
    rows, stored = asyncio.run(objects(masters))
    for name, content in stored.items():
        (FOLDER / f"{name}.sealed").write_bytes(content)
    (FOLDER / "states.json").write_text(json.dumps(states(), indent=1) + "\n")
    (FOLDER / "objects.json").write_text(json.dumps({name: row(one) for name, one in rows.items()}, indent=1) + "\n")


def _key(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]


if __name__ == "__main__":
    main()
