"""Requests that a schedule delivers: to rows by the real operations, and to an S3 bucket in memory.

Its sender waits until the schedule decides about a request (`Fate`). A request may be done and its answer lost, may
never arrive, or may arrive long after its sender was told that it did not: a line that holds it, a process that was
stopped between a check and the send. Nothing runs by itself, so that the same decisions make the same run.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import inspect
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Connection, Engine

from proxy.metadata.db.transaction import Registry, Transaction
from proxy.metadata.operations import INTERNAL
from proxy.model.errors import Code, Failure
from proxy.storage.base import ObjectMissing
from proxy.storage.s3.bucket import Busy, S3Refused
from proxy.storage.s3.circuit_breaker import Breaker
from proxy.storage.s3.conditions import ALL, Conditions

T = TypeVar("T")

OWNER: contextvars.ContextVar[str] = contextvars.ContextVar("owner", default="driver")
"""Which process sends what is sent in this context."""


class Fate(Enum):
    DONE = auto()  # done, and answered
    ANSWER_LOST = auto()  # done; the sender is told that nothing answers
    LOST = auto()  # never done; the sender is told that nothing answers
    HELD = auto()  # the sender is told that nothing answers; may be done any time later


@dataclass
class Request:
    owner: str
    what: str
    run: Callable[[], Any]
    silent: Exception
    answer: asyncio.Future[Any] = field(repr=False)


class Requests:
    """All that was sent and not decided about, and what is held after its sender gave up."""

    def __init__(self) -> None:
        self.pending: list[Request] = []
        self.held: list[Request] = []
        self.dead: set[str] = set()  # owners of which nothing more is sent

    async def send(self, what: str, run: Callable[[], Any], silent: Exception) -> Any:
        if OWNER.get() in self.dead:
            raise silent
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        request = Request(OWNER.get(), what, run, silent, answer)
        self.pending.append(request)
        try:
            return await answer
        except asyncio.CancelledError:
            if request in self.pending:  # on its way already
                self.pending.remove(request)
                self.held.append(request)
            raise

    def decide(self, request: Request, fate: Fate) -> None:
        self.pending.remove(request)
        error: Exception | None = None
        result: Any = None
        if fate in (Fate.DONE, Fate.ANSWER_LOST):
            try:
                result = request.run()
            except Exception as failure:
                error = failure
        if fate is Fate.HELD:
            self.held.append(request)
        if request.answer.done():
            return
        if fate is not Fate.DONE:
            request.answer.set_exception(request.silent)
        elif error is not None:
            request.answer.set_exception(error)
        else:
            request.answer.set_result(result)

    def deliver_late(self, request: Request) -> None:
        self.held.remove(request)
        try:
            request.run()
        except (Failure, ObjectMissing, S3Refused):
            return

    def abandon(self, owner: str) -> None:
        """Its process is gone: what it sent may still arrive."""
        for request in [each for each in self.pending if each.owner == owner]:
            self.pending.remove(request)
            self.held.append(request)
            if not request.answer.done():
                request.answer.set_exception(request.silent)


class HeldMetadata:
    """`contract.Metadata` and `model.open_objects.OpenObjects` over one database: the real operations, each in a
    transaction, once it is delivered. `sent` is called with each that is sent; what it returns is called with the
    result of one that is done."""

    def __init__(
        self,
        requests: Requests,
        engine: Engine,
        now: Callable[[], float],
        sent: Callable[[str, str, dict[str, Any]], Callable[[Any], None]],
    ) -> None:
        self._requests = requests
        self._engine = engine
        self._now = now
        self._sent = sent
        self._numbers = itertools.count(1)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        operation = INTERNAL[name].run
        names = list(inspect.signature(operation).parameters)[1:]

        async def call(*arguments: Any, **more: Any) -> Any:
            parameters = dict(zip(names, arguments, strict=False)) | more
            if "holder" in names:
                parameters["holder"] = f"holder-{next(self._numbers)}"
            done = self._sent(OWNER.get(), name, parameters)

            def run() -> Any:
                result = self.run(lambda tx: operation(tx, **parameters))
                done(result)
                return result

            silent = Failure(Code.METADATA_UNAVAILABLE, "the schedule lost it")
            return await self._requests.send(name, run, silent)

        return call

    def run(self, work: Callable[[Transaction], T]) -> T:
        with self._engine.begin() as connection:
            return work(self._transaction(connection))

    def _transaction(self, connection: Connection) -> Transaction:
        return Transaction(
            connection, self._now(), Registry(), new_upload_id=lambda: UUID(int=(7 << 100) + next(self._numbers))
        )


class HeldBucket:
    """`storage.s3.bucket.Bucket` of one bucket in memory. `conditional`: it honours conditional requests, and is known
    to; if not, it ignores them. `checks_parts`: a completion must name the parts that are there."""

    def __init__(self, requests: Requests, now: Callable[[], float], *, conditional: bool, checks_parts: bool) -> None:
        self.objects: dict[str, tuple[bytes, float, str]] = {}  # bytes, when they were put, ETag
        self.uploads: dict[str, tuple[str, dict[int, bytes], float]] = {}
        self.answer_seconds = 5.0
        self.breaker = Breaker(lambda: 0.0)
        self.conditions = ALL if conditional else Conditions()
        self._requests = requests
        self._now = now
        self._conditional = conditional
        self._checks_parts = checks_parts
        self._numbers = itertools.count(1)

    async def ask(self, operation: str, *, missing: bool = False, **parameters: Any) -> dict[str, Any]:
        return await self.until_answered(operation, lambda: self.once(operation, missing=missing, **parameters))

    async def once(self, operation: str, *, missing: bool = False, **parameters: Any) -> dict[str, Any]:
        if "Body" in parameters:  # the sender's buffer is its own again once it is told that nothing answers
            parameters["Body"] = bytes(parameters["Body"].view)
        run = getattr(self, f"_{operation}")
        answer: dict[str, Any] = await self._requests.send(
            operation, lambda: run(**parameters), TimeoutError("the schedule lost it")
        )
        return answer

    async def until_answered(self, what: str, once: Callable[[], Awaitable[T]]) -> T:
        """Twice."""
        for _ in range(2):
            try:
                return await once()
            except (TimeoutError, Busy):
                continue
            except S3Refused as refused:
                raise Failure(Code.STORE_UNAVAILABLE, f"refused: {refused.code}") from refused
        raise Failure(Code.STORE_UNAVAILABLE, f"the object store does not do {what}")

    def read_timeout(self) -> asyncio.Timeout:
        return asyncio.timeout(None)

    async def close(self) -> None:
        """Nothing is open."""

    # ---- the store ------------------------------------------------------------------------------------------------
    def _put(self, name: str, content: bytes, condition: str | None, etag: str) -> dict[str, Any]:
        if condition and self._conditional and name in self.objects:
            raise S3Refused("PreconditionFailed", 412)
        self.objects[name] = content, self._now(), etag
        return {"ETag": etag}

    def _put_object(self, Key: str, Body: bytes, IfNoneMatch: str | None = None, **_: Any) -> dict[str, Any]:
        return self._put(Key, Body, IfNoneMatch, _etag(Body))

    def _head_object(self, Key: str) -> dict[str, Any]:
        if Key not in self.objects:
            raise ObjectMissing(Key)
        content, _, etag = self.objects[Key]
        return {"ContentLength": len(content), "ETag": etag}

    def _get_object(self, Key: str, Range: str | None = None) -> dict[str, Any]:
        if Key not in self.objects:
            raise ObjectMissing(Key)
        content, *_ = self.objects[Key]
        start, stop = 0, len(content)
        if Range is not None:
            first, _, last = Range.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1, stop) if last else stop
        return {
            "Body": _Body(content[start:stop]),
            "ContentLength": stop - start,
            "ContentRange": f"bytes {start}-{stop - 1}/{len(content)}",
        }

    def _delete_object(self, Key: str, IfMatch: str | None = None) -> dict[str, Any]:
        if IfMatch and self._conditional:
            if Key not in self.objects:
                raise ObjectMissing(Key)
            if self.objects[Key][2] != IfMatch:
                raise S3Refused("PreconditionFailed", 412)
        self.objects.pop(Key, None)
        return {}

    def _create_multipart_upload(self, Key: str, **_: Any) -> dict[str, Any]:
        upload_id = f"upload-{next(self._numbers)}"
        self.uploads[upload_id] = Key, {}, self._now()
        return {"UploadId": upload_id}

    def _parts(self, name: str, upload_id: str) -> dict[int, bytes]:
        if upload_id not in self.uploads or self.uploads[upload_id][0] != name:
            raise ObjectMissing(name)
        return self.uploads[upload_id][1]

    def _upload_part(self, Key: str, UploadId: str, PartNumber: int, Body: bytes, **_: Any) -> dict[str, Any]:
        self._parts(Key, UploadId)[PartNumber] = Body
        return {"ETag": _etag(Body)}

    def _complete_multipart_upload(
        self,
        Key: str,
        UploadId: str,
        MultipartUpload: dict[str, Any],
        IfNoneMatch: str | None = None,
    ) -> dict[str, Any]:
        parts = self._parts(Key, UploadId)
        named = [(part["PartNumber"], part["ETag"]) for part in MultipartUpload["Parts"]]
        if any(number not in parts or (self._checks_parts and _etag(parts[number]) != etag) for number, etag in named):
            raise S3Refused("InvalidPart", 400)
        digests = b"".join(hashlib.md5(parts[number], usedforsecurity=False).digest() for number, _ in named)
        etag = f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(named)}"'
        answer = self._put(Key, b"".join(parts[number] for number, _ in named), IfNoneMatch, etag)
        del self.uploads[UploadId]
        return answer

    def _abort_multipart_upload(self, Key: str, UploadId: str) -> dict[str, Any]:
        self._parts(Key, UploadId)
        del self.uploads[UploadId]
        return {}

    def _list_objects_v2(self, Prefix: str, StartAfter: str = "", **_: Any) -> dict[str, Any]:
        names = sorted(name for name in self.objects if name.startswith(Prefix) and name > StartAfter)
        return {
            "Contents": [
                {"Key": name, "Size": len(content), "LastModified": _Moment(put_at), "ETag": etag}
                for name in names
                for content, put_at, etag in [self.objects[name]]
            ]
        }

    def _list_multipart_uploads(self, Prefix: str, **_: Any) -> dict[str, Any]:
        return {
            "Uploads": [
                {"Key": name, "UploadId": upload_id, "Initiated": _Moment(began)}
                for upload_id, (name, _, began) in sorted(self.uploads.items())
                if name.startswith(Prefix)
            ]
        }


class _Moment:
    """What botocore makes of a time."""

    def __init__(self, epoch_seconds: float) -> None:
        self._seconds = epoch_seconds

    def timestamp(self) -> float:
        return self._seconds


class _Body:
    """The body of an answer, all of it here."""

    def __init__(self, content: bytes) -> None:
        self._left = memoryview(content)

    async def read(self, length: int = -1) -> bytes:
        found = self._left if length < 0 else self._left[:length]
        self._left = self._left[len(found) :]
        return bytes(found)

    async def readinto(self, view: memoryview) -> int:
        found = await self.read(len(view))
        view[: len(found)] = found
        return len(found)

    @property
    def raw_stream(self) -> _Body:
        return self

    def close(self) -> None:
        """Nothing is open."""

    async def __aenter__(self) -> _Body:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
