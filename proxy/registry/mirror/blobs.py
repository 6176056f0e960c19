"""Layers that are being fetched: one copy in each worker that needs the layer, filled from the best source there is.

    the blob is stored by now      from the store
    no lease, or an expired one    from the upstream (`fetch.lead`), under a lease of this worker's
    leased by a worker here        from its copy, over the `relay`
    leased by another node         from a worker of this node that reads it from there; else from there (`peers`)
    the holder is unreachable      it is dead: its lease is taken over, if it still has it
    the holder has no copy         its fetch has just ended: the blob is stored by now, or the lease is free

So a blob is fetched once for all nodes that reach each other. If a source dies, the copy goes on from another one at
its current offset (`fetch` has the table). A second-hand copy (from a worker of this node) is never a source, so that
no two copies wait for each other.

A range that begins far ahead of the copy is read by its own request to the upstream, and not stored, because it is not
verified. `ComingBlob` is what `http.blob_response` reads. Called by `mirror`. Must not know HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from proxy import observe
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.mirror import AbsentBlob, FetchLease
from proxy.model.pull_through import PullThroughRule
from proxy.registry.blobs import Blobs, OpenBlob
from proxy.registry.mirror import relay
from proxy.registry.mirror.fetch import follow, lead
from proxy.registry.mirror.layer_copy import LayerCopy
from proxy.registry.mirror.peers import Handler, Peers
from proxy.registry.mirror.relay import CopySource, NoSuchFetch, SourceLost
from proxy.registry.mirror.spool import FetchSpool
from proxy.registry.mirror.upload_session import UploadSession
from proxy.registry.mirror.upstreams import Upstreams, told, upstream_name
from proxy.registry.uploads import Uploads
from proxy.storage.off_loop import run_to_completion
from proxy.upstream.client import LayerBody
from proxy.upstream.errors import UpstreamFailed, UpstreamReason

LEASE_SECONDS = 15.0
RENEW_SECONDS = 5.0
TRIES = 40  # to find a source, without a byte between them: each costs a call or two
TRY_SECONDS = 0.05
FAR_BYTES = 64 << 20
WORTH_SHARE = 8  # a session that has more than 1/8 of the layer beyond the copy is resumed
SESSION_SECONDS = 20.0  # to wait for that session: longer than the lease of its dead holder

_LOST_SESSION = frozenset({Code.UPLOAD_CONFLICT, Code.UPLOAD_IN_USE, Code.UPLOAD_NOT_FOUND, Code.INVALID_LAYER_PART})

Name = tuple[str, str, str]  # account, repository, digest


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A layer to fetch, and its rule."""

    rule: PullThroughRule
    account: str
    repository: str
    blob: AbsentBlob

    @property
    def name(self) -> Name:
        return self.account, self.repository, self.blob.digest


class MirrorBlobs:
    """One worker's copies. `folder` has this run's spools, `sockets` the relay's sockets: the same in all workers."""

    def __init__(
        self,
        metadata: Metadata,
        blobs: Blobs,
        uploads: Uploads,
        upstreams: Upstreams,
        folder: Path,
        sockets: Path,
        peers: Peers | None = None,
        *,
        early_ranges: bool = True,
    ) -> None:
        """Without `peers` no layers are exchanged with other nodes."""
        self._metadata = metadata
        self._blobs = blobs
        self._uploads = uploads
        self._upstreams = upstreams
        self._folder = folder
        self._sockets = sockets
        self._peers = peers
        self._node = peers.node if peers is not None else ""
        self._early_ranges = early_ranges
        self._address = ""
        self._server: asyncio.Server | None = None
        self._copies: dict[Name, LayerCopy] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        """Serve other workers."""
        path = self._sockets / relay.socket_name()
        self._server = await relay.serve(path, self.copy)
        self._address = str(path)

    async def close(self) -> None:
        """Cancel running fetches; other workers take them over. Leases expire."""
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(FileNotFoundError):
                await asyncio.to_thread(Path(self._address).unlink)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._peers is not None:
            await self._peers.close()

    def copy(self, account: str, repository: str, digest: str) -> LayerCopy | None:
        """This worker's copy of a layer that is being fetched."""
        return self._copies.get((account, repository, digest))

    def for_peers(self) -> Handler | None:
        """The HTTP handler for other nodes; None without peers."""
        return self._peers.handler(self._sockets, self.copy) if self._peers is not None else None

    def open(self, rule: PullThroughRule, account: str, repository: str, blob: AbsentBlob) -> ComingBlob:
        """The blob, to be read while it is fetched."""
        return ComingBlob(self, _Wanted(rule, account, repository, blob))

    async def runs(self, wanted: _Wanted, start: int, stop: int) -> AsyncGenerator[memoryview, None]:
        """The bytes [start, stop), as they arrive."""
        is_range = (start, stop) != (0, wanted.blob.size)
        copy = self._copies.get(wanted.name) or self._begin(wanted)
        if is_range and self._early_ranges and start > FAR_BYTES:
            await copy.found.wait()
            if copy.failure is None and not copy.is_done and start > max(copy.length, copy.ahead) + FAR_BYTES:
                async with contextlib.aclosing(self._far_runs(wanted, start, stop)) as runs:
                    async for run in runs:
                        start += len(run)
                        yield run
        early = self._early_ranges or not is_range
        async with contextlib.aclosing(copy.runs(start, stop, early=early)) as runs:
            async for run in runs:
                yield run

    async def _far_runs(self, wanted: _Wanted, start: int, stop: int) -> AsyncGenerator[memoryview, None]:
        """The range from the upstream, unverified; nothing if the upstream serves no ranges."""
        observe.metrics.mirror_fetches.labels("range").inc()
        try:
            async with self._body(wanted, start, stop) as body:
                if body.skips:
                    return
                async with contextlib.aclosing(body.chunks()) as chunks:
                    async for chunk in chunks:
                        if start + len(chunk) > stop:
                            raise UpstreamFailed(UpstreamReason.WRONG, "wrong-length", "more than the range")
                        start += len(chunk)
                        yield memoryview(chunk)
                if start < stop:
                    raise UpstreamFailed(UpstreamReason.UNAVAILABLE, "cut-short", f"{stop - start} bytes are missing")
        except UpstreamFailed as failure:
            raise self._failed(wanted, failure) from failure

    # ---- one copy ----------------------------------------------------------------------------------------------------
    def _begin(self, wanted: _Wanted) -> LayerCopy:
        copy = self._copies[wanted.name] = LayerCopy(wanted.blob, FetchSpool(self._folder))
        task = asyncio.create_task(self._run(copy, wanted), name="layer")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return copy

    async def _run(self, copy: LayerCopy, wanted: _Wanted) -> None:
        """Fill the copy, and keep it until its readers have ended."""
        try:
            await self._fill(copy, wanted)
        except UpstreamFailed as failure:
            copy.fail(self._failed(wanted, failure))
        except Failure as failure:
            wrong = failure.code in (Code.INVALID_LAYER, Code.SIZE_INVALID)
            named = UpstreamFailed(UpstreamReason.WRONG, "wrong-layer", failure.message)
            copy.fail(self._failed(wanted, named) if wrong else failure)
        except BaseException:
            if not copy.is_done:
                copy.ended_with_worker = True
                copy.fail(Failure(Code.METADATA_UNAVAILABLE, "the fetch was ended with its worker", hint="try again"))
            raise
        finally:
            del self._copies[wanted.name]
            if copy.failure is not None:
                observe.log.warning("a layer did not come", digest=wanted.blob.digest, error=str(copy.failure))
        await copy.unread()
        await copy.close()

    async def _fill(self, copy: LayerCopy, wanted: _Wanted) -> None:
        holder, gone, tries, stands = secrets.token_hex(16), "", 0, 0
        while not copy.is_done:
            if tries and (stored := await self._stored(wanted.name)) is not None:
                copy.ahead = wanted.blob.size
                copy.found.set()
                return await follow(copy, self._read(stored, copy.length, wanted.blob.size), "store")
            await self._upstreams.require(wanted.rule, wanted.repository, wanted.blob.digest)
            copy.is_first_hand = False
            lease = await self._lease(wanted, holder, instead=gone)
            try:
                if lease.holder == holder:
                    await self._lead(copy, wanted, holder, lease.upload_id, taken_over=bool(gone))
                else:
                    await self._follow(copy, wanted, lease)
            except NoSuchFetch as none:
                gone = lease.holder if none.is_gone else ""
            except SourceLost:
                observe.metrics.mirror_fetches.labels("source lost").inc()
            tries, stands = (tries + 1, stands) if copy.length == stands else (1, copy.length)
            if tries > TRIES:
                raise Failure(Code.UPSTREAM_UNAVAILABLE, "The layer is being fetched elsewhere; try again", seconds=2.0)
            if not copy.is_done:
                await asyncio.sleep(TRY_SECONDS)

    # ---- from the upstream -------------------------------------------------------------------------------------------
    async def _lead(self, copy: LayerCopy, wanted: _Wanted, holder: str, upload_id: str, *, taken_over: bool) -> None:
        """Fetch from the upstream. SourceLost if another worker has the upload session, or the layer is stored."""
        if (await self._stored(wanted.name)) is not None:  # it was stored while the lease was requested
            await self._metadata.end_fetch(*wanted.name, holder=holder)
            raise SourceLost
        if taken_over:
            observe.metrics.mirror_fetches.labels("taken over").inc()
        copy.is_first_hand = True
        copy.found.set()

        async def kept(session_id: str) -> None:
            await self._lease(wanted, holder, upload_id=session_id)

        session = UploadSession(self._uploads, wanted.account, wanted.repository, wanted.blob, kept)
        renewing = asyncio.create_task(self._renew(wanted, holder), name="renew lease of a fetch")
        is_done = is_wrong = False
        try:
            # Without `peers` an unreachable holder may be alive on another node: its session is not resumed.
            resumed = upload_id if self._peers is not None or not taken_over else ""
            await self._open_session(session, copy, resumed)
            await lead(copy, session, lambda start: self._body(wanted, start))
            is_done = True
            observe.metrics.mirror_fetches.labels("stored").inc()
        except UpstreamFailed as failure:
            is_wrong = failure.reason is UpstreamReason.WRONG
            raise
        except Failure as failure:
            if failure.code in _LOST_SESSION:
                raise SourceLost from failure
            is_wrong = failure.code in (Code.INVALID_LAYER, Code.SIZE_INVALID)
            raise
        finally:
            if not is_done:
                observe.metrics.mirror_fetches.labels("failed").inc()
            renewing.cancel()
            resumable = session.is_kept and not is_done and not is_wrong
            await run_to_completion(self._end(wanted, holder, session, is_done=is_done, resumable=resumable))

    async def _open_session(self, session: UploadSession, copy: LayerCopy, upload_id: str) -> None:
        """Resume the earlier session if it has much more than the copy; else begin a new one."""
        with contextlib.suppress(Failure, TimeoutError):
            stored = await session.stored(upload_id) if upload_id else 0
            if stored > copy.length and (stored - copy.length) * WORTH_SHARE > copy.blob.size:
                async with asyncio.timeout(SESSION_SECONDS):
                    while True:
                        try:
                            return await session.resume(upload_id, stored)
                        except Failure as failure:
                            if failure.code is not Code.UPLOAD_IN_USE:
                                raise
                        await asyncio.sleep(TRY_SECONDS * 10)
        await session.begin()

    async def _end(
        self, wanted: _Wanted, holder: str, session: UploadSession, *, is_done: bool, resumable: bool
    ) -> None:
        with contextlib.suppress(Failure):  # the lease expires anyway
            if resumable:
                await session.abandon()
            await self._metadata.end_fetch(*wanted.name, holder=holder, resumable=resumable)
        if not is_done and not resumable:
            await session.cancel()

    async def _renew(self, wanted: _Wanted, holder: str) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self._lease(wanted, holder)
            except Failure as failure:
                observe.log.info("the lease of a fetch was not renewed", digest=wanted.blob.digest, why=failure.code)

    async def _lease(self, wanted: _Wanted, holder: str, *, instead: str = "", upload_id: str = "") -> FetchLease:
        return await self._metadata.lease_fetch(
            *wanted.name,
            holder=holder,
            address=self._address,
            seconds=LEASE_SECONDS,
            instead=instead,
            node=self._node,
            upload_id=upload_id,
        )

    @contextlib.asynccontextmanager
    async def _body(self, wanted: _Wanted, start: int, stop: int | None = None) -> AsyncIterator[LayerBody]:
        client = await self._upstreams.client(wanted.rule)
        name = upstream_name(wanted.rule, wanted.repository)
        async with client.layer(name, wanted.blob.digest, start, stop) as found:
            yield found

    def _failed(self, wanted: _Wanted, failure: UpstreamFailed) -> Failure:
        digest = wanted.blob.digest
        missing = Failure(Code.LAYERS_NOT_FOUND, "The upstream has no such layer", digests=[digest])
        found = told(wanted.rule, failure, missing=missing)
        return self._upstreams.remember(wanted.rule, wanted.repository, digest, failure, found)

    # ---- from another copy -------------------------------------------------------------------------------------------
    async def _follow(self, copy: LayerCopy, wanted: _Wanted, lease: FetchLease) -> None:
        """Fill the copy from another one. NoSuchFetch, SourceLost, the other copy's failure, InvalidLayer."""
        found, copy.is_first_hand = await self._source(copy, wanted, lease)
        copy.ahead = found.length
        copy.found.set()
        await follow(copy, found.runs, "node" if copy.is_first_hand else "worker")

    async def _source(self, copy: LayerCopy, wanted: _Wanted, lease: FetchLease) -> tuple[CopySource, bool]:
        """The source, and whether it is on another node."""
        at, is_gone = copy.length, True
        if lease.node == self._node:
            try:
                return await relay.connect(lease.address, *wanted.name, at, first_hand=True), False
            except NoSuchFetch as none:
                is_gone = none.is_gone
        for path in await asyncio.to_thread(lambda: sorted(self._sockets.glob(relay.SOCKETS))):
            if str(path) not in (self._address, lease.address):
                with contextlib.suppress(NoSuchFetch):
                    return await relay.connect(str(path), *wanted.name, at, first_hand=True), False
        if not lease.node or lease.node == self._node or self._peers is None:
            raise NoSuchFetch(is_gone=is_gone)
        return await self._peers.connect(lease.node, lease.address, *wanted.name, at), True

    # ---- from the store ----------------------------------------------------------------------------------------------
    async def _stored(self, name: Name) -> AbstractAsyncContextManager[OpenBlob] | None:
        try:
            return self._blobs.open(await self._metadata.blob(*name))
        except Failure as failure:
            if failure.code is not Code.LAYERS_NOT_FOUND:
                raise
            return None

    async def _read(
        self, stored: AbstractAsyncContextManager[OpenBlob], start: int, stop: int
    ) -> AsyncGenerator[memoryview, None]:
        async with stored as opened, contextlib.aclosing(opened.runs(start, stop)) as runs:
            async for run in runs:
                yield run


class ComingBlob:
    """A blob that is being fetched, for `http.blob_response`: both its opener and the open blob."""

    def __init__(self, layers: MirrorBlobs, wanted: _Wanted) -> None:
        self.blob = wanted.blob
        self._layers = layers
        self._wanted = wanted
        self._untaken = 0

    async def link(self, blob: object) -> None:
        """None: no store has it yet."""

    @contextlib.asynccontextmanager
    async def open(self, blob: object) -> AsyncIterator[ComingBlob]:
        yield self

    async def runs(self, start: int, stop: int) -> AsyncGenerator[memoryview, None]:
        async with contextlib.aclosing(self._layers.runs(self._wanted, start, stop)) as runs:
            async for run in runs:
                self._untaken = 0
                yield run
                while self._untaken:  # the client was slow, and the view was released
                    left, self._untaken = self._untaken, 0
                    yield run[len(run) - left :]

    def release_buffers(self, untaken: int) -> None:
        self._untaken = untaken

    def suspend(self) -> None:
        """Does nothing: the fetch goes on for others."""

    def is_scarce(self) -> bool:
        return False
