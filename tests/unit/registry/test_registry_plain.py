"""Blobs that are not sealed beside those that are: either setting reads both; pages of hashes over many requests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.model.errors import Code, Failure
from proxy.model.names import parse_digest
from proxy.model.records import FRAME_PAGE, Sealing
from support.failing_registry import Bench
from support.faulty import Faults, raising
from support.oci_requests import digest_of
from support.whole_registry import ACCOUNT, WholeRegistry, whole_registry

REPOSITORY = "team/app"
F = 64
PAGE = F * FRAME_PAGE
CONTENT = os.urandom(3 * PAGE + 100)


async def push(registry: WholeRegistry, *pieces: bytes, algorithm: str = "sha256", closing: str = "") -> str:
    """One append a piece, the last one with the closing request; the digest."""
    upload = await registry.uploads.begin(ACCOUNT, REPOSITORY, algorithm=algorithm)
    for piece in pieces[:-1]:
        async with await registry.uploads.append(ACCOUNT, REPOSITORY, upload.upload_id) as append:
            await append.write(piece)
            await append.keep()
    digest = digest_of(b"".join(pieces), closing or algorithm)
    named = parse_digest(digest)
    async with await registry.uploads.append(ACCOUNT, REPOSITORY, upload.upload_id, closing=named) as append:
        await append.write(pieces[-1])
        await append.commit_blob(named)
    return digest


async def pull(registry: WholeRegistry, digest: str, start: int = 0, stop: int | None = None) -> bytes:
    blob = await registry.blobs.find(ACCOUNT, REPOSITORY, digest)
    async with registry.blobs.open(blob) as opened:
        return b"".join([bytes(run) async for run in opened.runs(start, blob.size if stop is None else stop)])


async def test_a_change_of_the_setting_is_about_new_blobs_only(tmp_path: Path) -> None:
    """Pushed under one setting, pulled under both; an upload that is open keeps what it began with."""
    digests: list[str] = []
    async with whole_registry(tmp_path, sealing=Sealing.NONE) as registry:
        digests.append(await push(registry, b"plain", b"and more"))
        upload = await registry.uploads.begin(ACCOUNT, REPOSITORY)
        async with await registry.uploads.append(ACCOUNT, REPOSITORY, upload.upload_id) as append:
            await append.write(b"begun plain, ")
            upload = await append.keep()
    async with whole_registry(tmp_path, sealing=Sealing.AES_GCM) as registry:
        digests.append(await push(registry, b"sealed"))
        whole = b"begun plain, ended later"
        named = parse_digest(digest_of(whole))
        async with await registry.uploads.append(ACCOUNT, REPOSITORY, upload.upload_id, closing=named) as append:
            await append.write(b"ended later")
            blob = await append.commit_blob(named)
        assert blob.sealed.sealing is Sealing.NONE
        contents = [await pull(registry, digest) for digest in (*digests, blob.digest)]
    async with whole_registry(tmp_path, sealing=Sealing.NONE) as registry:
        assert [await pull(registry, digest) for digest in (*digests, blob.digest)] == contents
    assert contents == [b"plainand more", b"sealed", whole]


@pytest.mark.parametrize("closing", ["sha256", "sha512"], ids=["as-begun", "another-algorithm"])
async def test_pages_of_many_frames_over_several_requests_come_back_in_any_range(tmp_path: Path, closing: str) -> None:
    """Closed under the algorithm that was not computed, all is read back and checked before it is a blob."""
    pieces = (CONTENT[: PAGE + 10], CONTENT[PAGE + 10 : PAGE + 50], CONTENT[PAGE + 50 :])
    async with whole_registry(tmp_path, sealing=Sealing.NONE, frame_length=F) as registry:
        digest = await push(registry, *pieces, closing=closing)
        assert await pull(registry, digest) == CONTENT
        for at in (PAGE, PAGE + 10, PAGE + 50, 2 * PAGE + 50):
            assert await pull(registry, digest, at - 1, at + 1) == CONTENT[at - 1 : at + 1]
        [file] = (path for path in (tmp_path / "objects").rglob("*") if path.is_file())
        assert file.read_bytes() == CONTENT


@pytest.mark.parametrize("call", ["keep_frame_hashes", "commit_upload"])
async def test_rows_that_fail_in_the_middle_of_an_append_leave_the_session_as_it_was(tmp_path: Path, call: str) -> None:
    faults = Faults()
    async with whole_registry(
        tmp_path, sealing=Sealing.NONE, frame_length=F, wrap_metadata=faults.wrap, wrap_store=faults.wrap
    ) as registry:
        bench = Bench(registry, faults, tmp_path / "objects")
        upload = await registry.uploads.begin(ACCOUNT, REPOSITORY)
        async with await registry.uploads.append(ACCOUNT, REPOSITORY, upload.upload_id) as append:
            await append.write(CONTENT[:10])
            await append.keep()
        faults.before[call] = raising(Failure(Code.METADATA_UNAVAILABLE, "gone"))
        named = parse_digest(digest_of(CONTENT))

        async def rest() -> None:
            async with await registry.uploads.append(ACCOUNT, REPOSITORY, upload.upload_id, closing=named) as append:
                for start in range(10, len(CONTENT), 50_000):
                    await append.write(CONTENT[start : start + 50_000])
                await append.commit_blob(named)

        with pytest.raises(Failure, match="gone"):
            await rest()
        bench.check_clean()
        standing = await registry.uploads.status(ACCOUNT, REPOSITORY, upload.upload_id)
        assert standing.sealed.plain_size == 10
        await rest()
        assert await pull(registry, str(named)) == CONTENT


async def test_a_blob_that_is_pushed_sealed_and_plain_is_one_object_and_mounts_as_it_lies(tmp_path: Path) -> None:
    async with whole_registry(tmp_path, sealing=Sealing.AES_GCM) as registry:
        digest = await push(registry, CONTENT)
    async with whole_registry(tmp_path, sealing=Sealing.NONE) as registry:
        assert await push(registry, CONTENT) == digest
        assert len([path for path in (tmp_path / "objects").rglob("*") if path.is_file()]) == 1
        plain = await push(registry, b"plain")
        for each in (digest, plain):
            assert await registry.blobs.mount(ACCOUNT, "other/app", each, REPOSITORY, may_create=True)
        found = [await registry.blobs.find(ACCOUNT, "other/app", each) for each in (digest, plain)]
        assert [blob.sealed.sealing for blob in found] == [Sealing.AES_GCM, Sealing.NONE]
        assert await pull(registry, digest) == CONTENT
