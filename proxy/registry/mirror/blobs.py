"""Which fetch an asked layer comes from: one of this worker, one of another worker, or a new one.

    lease in the rows          the fetch
    nobody's, or over          ours: begun here; the lease is renewed while it runs, and ended with it
    another's, reachable       read over the `relay`
    another's, not reachable   dead, or of another node: taken over, if it is still that one's
    another's, who has none    it has just ended: the blob is here by now, or the lease is

So a blob is fetched once for a node, and a holder that dies costs what it had brought. What a client reads is a
`Source` of `http.body_writer`; it must not know HTTP either way.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from proxy import observe
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure
from proxy.model.mirror import PULL_THROUGH, AbsentBlob
from proxy.model.names import parse_digest
from proxy.model.pull_through import PullThroughRule
from proxy.registry.append import Append, see_through
from proxy.registry.blobs import Blobs, OpenBlob
from proxy.registry.mirror import relay
from proxy.registry.mirror.fetch import Fetch
from proxy.registry.mirror.spool import FetchSpool
from proxy.registry.mirror.upstreams import Upstreams, told, upstream_name
from proxy.registry.uploads import Uploads
from proxy.upstream.client import LayerBody
from proxy.upstream.errors import UpstreamFailed

LEASE_SECONDS = 15.0
RENEW_SECONDS = 5.0
TRIES = 20  # at finding who fetches: each costs a call or two
TRY_SECONDS = 0.05

Name = tuple[str, str, str]  # account, repository, digest


class MirrorBlobs:
    """One worker's. `folder` is of this run, for spools, and `sockets` for the relay's: the same in every worker."""

    def __init__(
        self,
        metadata: Metadata,
        blobs: Blobs,
        uploads: Uploads,
        upstreams: Upstreams,
        folder: Path,
        sockets: Path,
        *,
        early_ranges: bool = True,
    ) -> None:
        self._metadata = metadata
        self._blobs = blobs
        self._uploads = uploads
        self._upstreams = upstreams
        self._folder = folder
        self._sockets = sockets
        self._early_ranges = early_ranges
        self._address = ""
        self._server: asyncio.Server | None = None
        self._fetches: dict[Name, Fetch] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        """Serve other workers."""
        path = self._sockets / f"f-{secrets.token_hex(4)}.sock"
        self._server = await relay.serve(path, lambda *name: self._fetches.get(name))
        self._address = str(path)

    async def close(self) -> None:
        """End what runs; its leases end by themselves."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(FileNotFoundError):
                await asyncio.to_thread(Path(self._address).unlink)

    def open(self, rule: PullThroughRule, account: str, repository: str, blob: AbsentBlob) -> ComingBlob:
        """The blob, to be read as it comes."""
        return ComingBlob(self, rule, account, repository, blob)

    async def runs(
        self, rule: PullThroughRule, account: str, repository: str, blob: AbsentBlob, start: int, stop: int
    ) -> AsyncGenerator[memoryview, None]:
        """The bytes [start, stop), from whichever fetch; or from the store, where it has come meanwhile."""
        early = self._early_ranges or (start, stop) == (0, blob.size)
        source = await self._source(rule, account, repository, blob, start, stop, early)
        async with contextlib.aclosing(source) as runs:
            async for run in runs:
                yield run

    async def _source(
        self,
        rule: PullThroughRule,
        account: str,
        repository: str,
        blob: AbsentBlob,
        start: int,
        stop: int,
        early: bool,
    ) -> AsyncGenerator[memoryview, None]:
        name = (account, repository, blob.digest)
        holder, instead = secrets.token_hex(16), ""
        for _ in range(TRIES):
            if (mine := self._fetches.get(name)) is not None:
                return mine.runs(start, stop, early=early)
            self._upstreams.require(rule, repository, blob.digest)
            lease = await self._metadata.lease_fetch(
                *name, holder=holder, address=self._address, seconds=LEASE_SECONDS, instead=instead
            )
            if lease.holder == holder:
                if (mine := self._fetches.get(name)) is not None:  # begun while the lease was asked for
                    return mine.runs(start, stop, early=early)
                if (stored := await self._stored(name)) is not None:
                    await self._metadata.end_fetch(*name, holder=holder)
                    return self._read(stored, start, stop)
                return self._begin(rule, name, blob, holder).runs(start, stop, early=early)
            try:
                return await relay.connect(lease.address, *name, start, stop, early=early)
            except relay.NoSuchFetch as none:
                instead = lease.holder if none.is_gone else ""
            if (stored := await self._stored(name)) is not None:
                return self._read(stored, start, stop)
            await asyncio.sleep(TRY_SECONDS)
        raise Failure(Code.UPSTREAM_UNAVAILABLE, "The layer is being fetched elsewhere; try again", seconds=2.0)

    def _begin(self, rule: PullThroughRule, name: Name, blob: AbsentBlob, holder: str) -> Fetch:
        account, repository, digest = name

        @contextlib.asynccontextmanager
        async def body(start: int) -> AsyncIterator[LayerBody]:
            client = await self._upstreams.client(rule)
            async with client.layer(upstream_name(rule, repository), digest, start) as found:
                yield found

        async def begin() -> Append:
            upload = await self._uploads.begin(account, repository, may_create=False, opened_by=PULL_THROUGH)
            opened.append(upload.upload_id)
            return await self._uploads.append(
                account, repository, upload.upload_id, length=blob.size, closing=parse_digest(digest)
            )

        def failed(failure: UpstreamFailed) -> Failure:
            missing = Failure(Code.LAYERS_NOT_FOUND, "The upstream has no such layer", digests=[digest])
            return self._upstreams.remember(rule, repository, digest, told(rule, failure, missing=missing))

        opened: list[str] = []
        fetch = Fetch(blob, FetchSpool(self._folder), body=body, begin=begin, failed=failed)
        self._fetches[name] = fetch
        task = asyncio.create_task(self._run(fetch, name, holder, opened), name="fetch layer")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return fetch

    async def _run(self, fetch: Fetch, name: Name, holder: str, opened: list[str]) -> None:
        renewing = asyncio.create_task(self._renew(name, holder), name="renew lease of a fetch")
        try:
            await fetch.run()
        finally:
            self._fetches.pop(name, None)
            renewing.cancel()
            await see_through(self._finish(fetch, name, holder, opened))
        await fetch.unread()
        await fetch.close()

    async def _finish(self, fetch: Fetch, name: Name, holder: str, opened: list[str]) -> None:
        with contextlib.suppress(Failure):  # it ends by itself
            await self._metadata.end_fetch(*name, holder=holder)
        if opened and not fetch.is_done:
            with contextlib.suppress(Failure):  # the sweep takes what stays
                await self._uploads.cancel(name[0], name[1], opened[0])

    async def _renew(self, name: Name, holder: str) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self._metadata.lease_fetch(*name, holder=holder, address=self._address, seconds=LEASE_SECONDS)
            except Failure as failure:
                observe.log.info("the lease of a fetch was not renewed", digest=name[2], why=failure.code)

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
                yield memoryview(bytes(run))  # ours: its buffer may be asked back, and is another's then


class ComingBlob:
    """What `http.blob_response` reads: a blob that may not be here yet. Both its opener and the open blob."""

    def __init__(
        self, layers: MirrorBlobs, rule: PullThroughRule, account: str, repository: str, blob: AbsentBlob
    ) -> None:
        self.blob = blob
        self._layers = layers
        self._of = rule, account, repository
        self._untaken = 0

    async def link(self, blob: object) -> None:
        """No store has it."""

    @contextlib.asynccontextmanager
    async def open(self, blob: object) -> AsyncIterator[ComingBlob]:
        yield self

    async def runs(self, start: int, stop: int) -> AsyncGenerator[memoryview, None]:
        async with contextlib.aclosing(self._layers.runs(*self._of, self.blob, start, stop)) as runs:
            async for run in runs:
                self._untaken = 0
                yield run
                while self._untaken:  # the client did not take them, and gave the view back
                    left, self._untaken = self._untaken, 0
                    yield run[len(run) - left :]

    def release_buffers(self, untaken: int) -> None:
        self._untaken = untaken

    def suspend(self) -> None:
        """The fetch goes on for others."""

    def is_scarce(self) -> bool:
        return False
