"""Frames in an encrypted, unlinked file."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.model.errors import Code, Failure
from proxy.storage.encrypted_file import EncryptedFile

FRAME = 4096


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[EncryptedFile]:
    made = EncryptedFile(tmp_path, FRAME, "a frame")
    yield made
    await made.close()


async def test_frames_read_back_and_the_folder_never_shows_a_file(file: EncryptedFile, tmp_path: Path) -> None:
    frames = [bytes([number]) * FRAME for number in range(5)]
    for frame in frames:
        await file.append(frame)
    assert await file.read(1, 3) == b"".join(frames[1:4])
    assert file.frames == 5
    assert os.listdir(tmp_path) == []


async def test_a_write_that_is_tried_again_takes_another_nonce(
    file: EncryptedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AES-GCM is broken by two texts under one nonce, and a full disk may hold a part of the first."""
    written: list[bytes] = []
    pwrite = os.pwrite

    def fills_up(fd: int, data: bytes, offset: int) -> int:
        written.append(data)
        return pwrite(fd, data[:100], offset) if len(written) == 2 else pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", fills_up)
    await file.append(b"1" * FRAME)
    with pytest.raises(Failure) as caught:
        await file.append(b"2" * FRAME)
    assert caught.value.code is Code.STORE_FULL
    await file.append(b"2" * FRAME)
    assert written[1] != written[2]
    assert await file.read(0, 2) == b"1" * FRAME + b"2" * FRAME
