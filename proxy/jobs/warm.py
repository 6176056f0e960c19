"""Reads images into this machine's cache before they are pulled: every blob of them, frame by frame.

A reference is REPO (all its tags), REPO:TAG or REPO@DIGEST; an index stands for all its images, or for those of a
platform. Promises: what could not be found, read or cached is reported, and the rest is warmed; a blob that is cached
already is not read again. Called by `admin.warming`. Must not know how the cache stores anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.jobs.progress import Findings, Progress
from proxy.metadata.contract import Metadata
from proxy.model.errors import Failure
from proxy.model.manifests import read_manifest
from proxy.model.names import check_repository, check_tag, parse_digest
from proxy.model.records import Blob, ManifestFacts
from proxy.registry.blobs import Blobs

AT_ONCE = 4  # blobs read at a time
TAGS = 1000  # a request
NESTED = 8  # indexes in indexes that are followed
UNREAD = 64  # stored bytes at an object's end, an empty last frame, that no read needs


@dataclass(slots=True)
class WarmReport:
    images: int = 0  # manifests of images and artifacts
    warmed: int = 0
    warmed_bytes: int = 0  # plain
    kept: int = 0  # blobs that were cached already
    failed: Findings = field(default_factory=Findings)

    @property
    def status(self) -> int:
        return 1 if self.failed.count else 0


@dataclass(frozen=True, slots=True)
class Reference:
    """`name` is a tag or a digest, empty for all tags."""

    repository: str
    name: str

    def __str__(self) -> str:
        joint = "@" if ":" in self.name else ":" if self.name else ""
        return f"{self.repository}{joint}{self.name}"


def parse_reference(text: str) -> Reference:
    """Parse REPO[:TAG|@DIGEST]. Failures of `model.names`."""
    repository, at, digest = text.partition("@")
    if at:
        return Reference(check_repository(repository), str(parse_digest(digest)))
    repository, colon, tag = text.partition(":")
    return Reference(check_repository(repository), check_tag(tag) if colon else "")


async def warm(
    metadata: Metadata,
    blobs: Blobs,
    kept: Callable[[str], Awaitable[int]],
    account: str,
    references: Sequence[Reference],
    *,
    platform: str | None,
    progress: Callable[[Progress], None],
) -> WarmReport:
    """Read all blobs of `references`. `kept` returns how many bytes of an object are cached; `platform` is
    os/architecture with or without /variant. Progress in plain bytes."""
    report = WarmReport()
    wanted: dict[str, Blob] = {}
    for reference in references:
        async for one in expanded(metadata, report, account, reference):
            await _collect(metadata, report, account, one, platform, wanted)
    total, done = sum(blob.size for blob in wanted.values()), 0
    turns = asyncio.Semaphore(AT_ONCE)

    async def missing(blob: Blob) -> int:
        absent = blob.sealed.stored_size - await kept(blob.sealed.object_key)
        return absent if blob.size and absent > UNREAD else 0

    async def read(blob: Blob) -> None:
        nonlocal done
        async with turns:
            if not await missing(blob):
                report.kept += 1
                done += blob.size
                return
            try:
                async with blobs.open(blob) as opened, contextlib.aclosing(opened.runs(0, blob.size)) as runs:
                    async for run in runs:
                        done += len(run)
                        progress(Progress("warming", done, total, "bytes"))
            except Failure as failure:
                report.failed.add(blob.sealed.object_key, blob.digest, failure.message)
                return
            report.warmed += 1
            report.warmed_bytes += blob.size

    progress(Progress("warming", 0, total, "bytes"))
    async with asyncio.TaskGroup() as group:
        for blob in wanted.values():
            group.create_task(read(blob))
    failed = {finding.digest for finding in report.failed.named}
    for blob in wanted.values():
        absent = await missing(blob)
        if absent and blob.digest not in failed:
            report.failed.add("", blob.digest, f"{absent:,} of its bytes did not stay in the cache")
    return report


async def expanded(
    metadata: Metadata, report: WarmReport, account: str, reference: Reference
) -> AsyncIterator[Reference]:
    if reference.name:
        yield reference
        return
    last, more, seen = "", True, 0
    while more:
        try:
            page = await metadata.tags(account, reference.repository, last=last, limit=TAGS)
        except Failure as failure:
            report.failed.add("", str(reference), failure.message)
            return
        for tag in page.names:
            yield Reference(reference.repository, tag)
        last, more, seen = page.names[-1] if page.names else "", page.more, seen + len(page.names)
    if not seen:
        report.failed.add("", str(reference), "has no tags")


async def _collect(
    metadata: Metadata,
    report: WarmReport,
    account: str,
    reference: Reference,
    platform: str | None,
    wanted: dict[str, Blob],
) -> None:
    """Add the blobs of a manifest, and of those that it lists."""
    pending, seen = [(reference, 0)], set[str]()
    while pending:
        here, depth = pending.pop()
        try:
            manifest = await metadata.manifest(account, here.repository, here.name)
            facts = read_manifest(manifest.content, manifest.media_type)
        except Failure as failure:
            report.failed.add("", str(here), failure.message)
            continue
        if manifest.digest in seen:
            continue
        seen.add(manifest.digest)
        children = children_for(manifest.content, facts, [] if platform is None else [platform])
        if facts.children and not children:
            report.failed.add("", str(here), f"holds no image for {platform}")
        if depth < NESTED:
            pending += [(Reference(here.repository, child), depth + 1) for child in children]
        report.images += not facts.children
        for digest, _ in facts.blobs:
            try:
                wanted[digest] = await metadata.blob(account, here.repository, digest)
            except Failure as failure:
                report.failed.add("", digest, f"of {here}: {failure.message}")


def children_for(content: bytes, facts: ManifestFacts, platforms: Sequence[str]) -> tuple[str, ...]:
    """The manifests of an index for these platforms (none: all), and the indexes in it. `content` is valid JSON."""
    if not platforms:
        return facts.children
    wanted = [platform.split("/") for platform in platforms]
    found = []
    for entry in json.loads(content).get("manifests") or []:
        named: dict[str, Any] = entry.get("platform") or {}
        parts = [named.get("os"), named.get("architecture"), named.get("variant")]
        is_index = "index" in entry["mediaType"] or "manifest.list" in entry["mediaType"]
        if is_index or any(parts[: len(each)] == each for each in wanted):
            found.append(entry["digest"])
    return tuple(found)
