"""Replication to another installation: OCI's requests with the headers of `model.replica_headers`.

    each layer     HEAD; POST with mount; PATCH of its bytes as they are read; PUT with the digest
    the manifest   PUT by digest, its tags in the headers, some of them at a time
    a deletion     DELETE by digest or by tag

An interrupted upload resumes at the offset that the peer reports, as long as this process remembers it: after short
pauses at first, then at the job's next attempt. Account ids, in origins too, are sent as the peer knows them. A
permanent refusal raises `Refused`; a temporary failure `UpstreamFailed`. Made by `app.replication`, called by
`replication`. The peer answers with `oci.replicas`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from urllib.parse import quote

from yarl import URL

from proxy import observe
from proxy.jobs.replication import Refused, ReplicationSource
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.lru import Lru
from proxy.model.replica_headers import (
    DESTINATION,
    FAILURE,
    ORIGIN,
    SOURCE,
    TAGS,
    batches,
    removed_header,
    tags_header,
)
from proxy.model.replication import FailureCode, RemovedTag, ReplicaManifest, ReplicaTag
from proxy.registry.blobs import Blobs
from proxy.upstream.errors import UpstreamFailed, UpstreamReason
from proxy.upstream.limits import retry_after
from proxy.upstream.peer import PeerAnswer, PeerClient

PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)  # seconds before an upload is resumed, while it makes no progress
OPEN_MOST = 1024  # interrupted uploads that are remembered

_PASSING = frozenset({401, 408, 409, 416, 425})  # temporary: these statuses do not depend on the image
_LAYERS_GONE = "MANIFEST_BLOB_UNKNOWN"  # the peer removed a layer before its manifest came: it is sent again

_Key = tuple[str, str, str]  # account, repository and digest of a layer


class PeerTarget:
    """The target for one peer's region. `account_there` returns the peer's id for an account here."""

    def __init__(
        self, rows: Metadata, blobs: Blobs, peer: PeerClient, *, account_there: Callable[[str], str], region: str
    ) -> None:
        """`region` is this registry's own."""
        self._rows = rows
        self._blobs = blobs
        self._peer = peer
        self._account_there = account_there
        self._region = region
        self._open = Lru[_Key, URL](OPEN_MOST)
        self._sending: dict[_Key, asyncio.Lock] = {}

    async def put(self, source: ReplicationSource, manifest: ReplicaManifest) -> None:
        stored = await self._rows.manifest(source.account, source.repository, manifest.digest)
        with _denials():
            for digest, size in manifest.blobs:
                await self._layer(source, digest, size)
            for tags in batches(await self._tags(source, manifest)):
                headers = {**self._headers(source), "Content-Type": stored.media_type, TAGS: tags_header(tags)}
                to = f"/v2/{source.repository}/manifests/{manifest.digest}"
                answer = await self._peer.ask("PUT", to, headers, stored.content)
                if answer.code == _LAYERS_GONE:
                    raise UpstreamFailed(UpstreamReason.UNAVAILABLE, _LAYERS_GONE, "a layer is to be sent again")
                _judge(answer, 201)

    async def remove(self, source: ReplicationSource, digest: str, origin: str, tags: Sequence[RemovedTag]) -> bool:
        there = [replace(tag, origin=self._origin(tag.origin)) for tag in tags]
        *first, last = batches(there)
        with _denials():
            for some in first if digest else (*first, last):
                if some:
                    await self._delete(source, some[0].name, {TAGS: removed_header(some)})
            if not digest:
                return True
            more = {TAGS: removed_header(last), ORIGIN: self._origin(origin)}
            return await self._delete(source, digest, more)

    async def _delete(self, source: ReplicationSource, reference: str, more: Mapping[str, str]) -> bool:
        to = f"/v2/{source.repository}/manifests/{reference}"
        answer = await self._peer.ask("DELETE", to, {**self._headers(source), **more})
        if answer.status == 409:
            return False
        _judge(answer, 202)
        return True

    # ---- a layer -----------------------------------------------------------------------------------------------------
    async def _layer(self, source: ReplicationSource, digest: str, size: int) -> None:
        """Send a layer until the peer's repository has it. Other jobs with this layer wait, and then find it there."""
        key = source.destination.registry, source.repository, digest
        lock = self._sending.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                await self._upload(source, key, size)
        finally:
            if not lock.locked():
                self._sending.pop(key, None)

    async def _upload(self, source: ReplicationSource, key: _Key, size: int) -> None:
        headers, digest = self._headers(source), key[2]
        pauses, furthest = iter(PAUSES), 0
        while True:
            try:
                answer = await self._peer.ask("HEAD", f"/v2/{source.repository}/blobs/{digest}", headers)
                if answer.status != 404:
                    _judge(answer, 200)
                    return
                start = await self._reached(key, headers)
                if start > furthest:
                    pauses, furthest = iter(PAUSES), start
                if key not in self._open:
                    answer = await self._peer.ask(
                        "POST", f"/v2/{source.repository}/blobs/uploads/?mount={quote(digest)}", headers
                    )
                    if answer.status == 201:
                        return
                    _judge(answer, 202)
                    self._open[key] = self._peer.upload(answer)
                await self._finish(source, key, headers, start, size)
                return
            except UpstreamFailed as failure:
                seconds = next(pauses, None) if failure.reason is UpstreamReason.UNAVAILABLE else None
                if seconds is None:
                    raise
                await asyncio.sleep(seconds)

    async def _reached(self, key: _Key, headers: Mapping[str, str]) -> int:
        """How many bytes the open upload has; 0, and it is no longer open, if the peer does not know it."""
        location = self._open.get(key)
        if location is None:
            return 0
        answer = await self._peer.ask("GET", location, headers)
        if answer.status == 404:
            self._open.pop(key, None)
            return 0
        _judge(answer, 204)
        last = answer.headers.get("Range", "").removeprefix("0-")
        # An upload of one byte and an empty one both report "0-0": if it is one byte, the peer answers 416.
        return int(last) + 1 if last.isascii() and last.isdigit() and int(last) else 0

    async def _finish(
        self, source: ReplicationSource, key: _Key, headers: Mapping[str, str], start: int, size: int
    ) -> None:
        location, digest = self._open[key], key[2]
        if start < size:
            more = {**headers, "Content-Range": f"{start}-{size - 1}"}
            async with contextlib.aclosing(self._runs(source, digest, start, size)) as runs:
                answer = await self._peer.send(location, more, runs, size - start)
            if answer.status in (404, 416):
                self._open.pop(key, None)  # the next attempt opens a new one
            _judge(answer, 202, also_passing=404)
        to = location.update_query(digest=digest)
        answer = await self._peer.ask("PUT", to, headers)
        if 400 <= answer.status < 500:
            self._open.pop(key, None)
        if answer.code == "DIGEST_INVALID":
            raise UpstreamFailed(UpstreamReason.UNAVAILABLE, "wrong-digest", "the layer arrived otherwise than it left")
        _judge(answer, 201, also_passing=404)
        self._open.pop(key, None)

    async def _runs(self, source: ReplicationSource, digest: str, start: int, size: int) -> AsyncGenerator[bytes, None]:
        """The layer's bytes; each run is a copy, because the reader reuses its buffer while the socket still sends."""
        blob = await self._blobs.find(source.account, source.repository, digest)
        async with (
            self._blobs.open(blob) as opened,
            contextlib.aclosing(opened.runs(start, size)) as runs,
        ):
            async for run in runs:
                yield bytes(run)
                observe.metrics.replication_bytes.labels(source.destination.region).inc(len(run))

    async def _tags(self, source: ReplicationSource, manifest: ReplicaManifest) -> Sequence[ReplicaTag]:
        """The tags that the manifest still has: sending its layers may have taken long."""
        if not manifest.tags:
            return ()
        plan = await self._rows.replication_plan(
            source.account, source.repository, manifest.digest, destination=source.destination
        )
        return plan.manifests[-1].tags if plan is not None and plan.manifests else ()

    # ---- headers -----------------------------------------------------------------------------------------------------
    def _headers(self, source: ReplicationSource) -> dict[str, str]:
        there = self._account_there(source.destination.registry)
        return {
            SOURCE: self._origin(f"{self._region}/{source.account}"),
            DESTINATION: f"{source.destination.region}/{there}",
        }

    def _origin(self, origin: str) -> str:
        region, _, account = origin.partition("/")
        return f"{region}/{self._account_there(account)}"


def _judge(answer: PeerAnswer, expected: int, *, also_passing: int = 0) -> None:
    """Raise unless the status is the expected one: Refused, UpstreamFailed, or Throttling with the seconds to wait."""
    status = answer.status
    if status == expected:
        return
    said = f"{status} {answer.code}".strip()
    if status == 429:
        raise Failure(Code.THROTTLING, "the peer has too many requests", seconds=retry_after(answer.headers))
    if status >= 500 or status < 400 or status in (*_PASSING, also_passing):
        raise UpstreamFailed(UpstreamReason.UNAVAILABLE, said)
    code = answer.headers.get(FAILURE, "")
    if code not in list(FailureCode):
        code = FailureCode.ACCESS_DENIED if status == 403 else FailureCode.DESTINATION_REFUSED
    raise Refused(FailureCode(code), f"the peer answered {said}")


@contextlib.contextmanager
def _denials() -> Iterator[None]:
    """A peer that refuses a password refuses every image."""
    try:
        yield
    except UpstreamFailed as failure:
        if failure.reason is UpstreamReason.DENIED:
            raise Refused(FailureCode.ACCESS_DENIED, str(failure)) from None
        raise
