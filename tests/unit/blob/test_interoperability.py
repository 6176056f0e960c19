"""The format belongs to nobody: the public AWS Encryption SDK opens what we stored, and we open what it wrote."""

from __future__ import annotations

import hashlib

import pytest
from aws_encryption_sdk.identifiers import Algorithm
from cryptography.exceptions import InvalidTag

from proxy.blob import format
from proxy.blob.buffers import BufferPool
from proxy.blob.format import FRAME_LENGTH, FormatError, message_length, parse_header
from proxy.blob.keys import DataKey
from proxy.blob.local_keys import LocalKeys
from proxy.blob.master_file import MasterKeys
from proxy.model.records import SealedObject, Segment
from support.encryption_sdk import sdk_decrypt, sdk_encrypt
from support.memory_store import MemoryStore
from support.sealed_objects import ARN, Written, read_range, write_messages

F = 256
CONTEXT = {"aws:ecr:arn": ARN}


def content(size: int) -> bytes:
    return hashlib.shake_256(b"interoperability").digest(size)


@pytest.mark.parametrize("size", [0, 1, F - 1, F, F + 1, 4 * F, 10_000])
async def test_the_sdk_opens_what_we_stored(
    memory: MemoryStore, masters: MasterKeys, data_key: DataKey, pool: BufferPool, size: int
) -> None:
    written = await write_messages(memory, [[content(size)]], data_key, pool=pool, frame_length=F)
    stored = bytes(memory.objects[written.sealed.object_key])
    assert sdk_decrypt(stored, masters.export()[0]) == (content(size), CONTEXT)


async def test_the_sdk_opens_frames_of_the_length_that_we_use(
    memory: MemoryStore, masters: MasterKeys, data_key: DataKey
) -> None:
    whole = content(3 * FRAME_LENGTH + 5)
    written = await write_messages(memory, [[whole]], data_key, pool=BufferPool(), frame_length=FRAME_LENGTH)
    stored = bytes(memory.objects[written.sealed.object_key])
    assert sdk_decrypt(stored, masters.export()[0])[0] == whole


async def test_the_sdk_refuses_what_we_refuse(
    memory: MemoryStore, masters: MasterKeys, data_key: DataKey, pool: BufferPool
) -> None:
    """A flipped bit of ours is found by it as well: it does check what we sealed."""
    written = await write_messages(memory, [[content(1000)]], data_key, pool=pool, frame_length=F)
    stored = bytearray(memory.objects[written.sealed.object_key])
    stored[len(written.table[0].header) + 100] ^= 1
    with pytest.raises(InvalidTag):
        sdk_decrypt(bytes(stored), masters.export()[0])


async def test_the_loop_opens_all_messages_where_the_sdk_alone_opens_the_first(
    memory: MemoryStore, masters: MasterKeys, data_key: DataKey, pool: BufferPool
) -> None:
    """The loop of `format`'s page, with the SDK as its reader."""
    parts = [content(1000), b"", content(F), content(77)]
    written = await write_messages(memory, [[part] for part in parts], data_key, pool=pool, frame_length=F)
    stored = bytes(memory.objects[written.sealed.object_key])
    assert sdk_decrypt(stored, masters.export()[0])[0] == parts[0]
    opened = b""
    while stored:
        length = message_length(stored)
        opened += sdk_decrypt(stored[:length], masters.export()[0])[0]
        stored = stored[length:]
    assert opened == b"".join(parts)


async def open_foreign(memory: MemoryStore, masters: MasterKeys, stored: bytes, size: int, pool: BufferPool) -> bytes:
    """Read a message that somebody else wrote, with no more than a row would hold of it."""
    header = parse_header(stored[: format.HEADER_MAX])
    assert message_length(stored) == len(stored)
    memory.objects["f" * 32] = bytearray(stored)
    segment = Segment(0, size, 0, len(stored), stored[: header.length])
    encrypted = header.data_keys[0]
    sealed = SealedObject("f" * 32, encrypted, ARN, header.frame_length, size, len(stored), 1, (segment,))
    data_key = await LocalKeys(masters).unwrap(encrypted, ARN)
    return await read_range(memory, Written(sealed, data_key, b"", (segment,)), 0, size, pool)


@pytest.mark.parametrize("size", [0, 1, F - 1, F, F + 1, 4 * F, 10_000])
async def test_we_open_what_the_sdk_wrote(
    memory: MemoryStore, masters: MasterKeys, pool: BufferPool, size: int
) -> None:
    stored = sdk_encrypt(content(size), masters.export()[0], CONTEXT, F)
    assert await open_foreign(memory, masters, stored, size, pool) == content(size)


async def test_we_open_a_context_with_more_in_it(memory: MemoryStore, masters: MasterKeys, pool: BufferPool) -> None:
    """What a header holds beyond ours is under its tag; only the data key's own context must be exactly ours."""
    stored = sdk_encrypt(content(100), masters.export()[0], CONTEXT, F)
    assert parse_header(stored).context == CONTEXT
    assert await open_foreign(memory, masters, stored, 100, pool) == content(100)


@pytest.mark.parametrize(
    ("algorithm", "says"),
    [
        (Algorithm.AES_256_GCM_IV12_TAG16_HKDF_SHA256, "message version 1"),
        (Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384, "0x0578 .AES-256-GCM with key commitment and ECDSA"),
    ],
    ids=["v1", "signed"],
)
def test_what_the_sdk_wrote_with_another_suite_is_refused_by_name(
    masters: MasterKeys, algorithm: Algorithm, says: str
) -> None:
    stored = sdk_encrypt(content(100), masters.export()[0], CONTEXT, F, algorithm)
    with pytest.raises(FormatError, match=says):
        parse_header(stored)


def test_what_the_sdk_wrote_unframed_is_refused_by_name(masters: MasterKeys) -> None:
    stored = sdk_encrypt(content(100), masters.export()[0], CONTEXT, 0)
    with pytest.raises(FormatError, match="not framed"):
        parse_header(stored)


@pytest.mark.parametrize("stored", [b"", b"\x02\x04\x78" + bytes(100)], ids=["empty", "cut"])
def test_the_loop_stops_at_what_is_no_message(stored: bytes) -> None:
    with pytest.raises(FormatError):
        message_length(stored)


def test_the_loop_stops_at_a_message_cut_short(masters: MasterKeys) -> None:
    stored = sdk_encrypt(content(1000), masters.export()[0], CONTEXT, F)
    for length in range(parse_header(stored).length, len(stored)):
        with pytest.raises(FormatError, match="cut short"):
            message_length(stored[:length])
