"""A KMS over real HTTP, that counts what it is asked and fails on command.

It has one key, and those that are put into `named`. `refuse` names the error that every request gets until it is
cleared, `refused` that of each key; `stall` makes requests wait. It holds a wrapped key to its encryption context, and
to nothing else: it is for faults, moto is for what KMS does.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from proxy.blob.kms import Kms, KmsEndpoint

ARN = "arn:aws:kms:us-east-1:123456789012:key/of-the-tests"
_STATUS = {"KMSInternalException": 500, "DependencyTimeoutException": 503}


class FakeKms:
    def __init__(self) -> None:
        self.arn = ARN
        self.named = {ARN: ARN}  # what a key may be asked for by, and its ARN
        self.asked: list[str] = []
        self.refuse = ""
        self.refused: dict[str, str] = {}
        self.refuse_next = 0  # so many requests are refused as throttled
        self.stall: asyncio.Event | None = None
        self.url = ""
        self._news = asyncio.Event()
        self._wrapped: dict[bytes, tuple[str, bytes, Any]] = {}
        self._forgotten = dict(self._wrapped)

    def kms(self, **more: Any) -> Kms:
        return Kms(KmsEndpoint(self.arn, "us-east-1", self.url, "AKIAKMSOFTHETESTS", "secret"), **more)

    def forget(self, ciphertext: bytes) -> None:
        """It opens no more, until `recall`."""
        self._forgotten[ciphertext] = self._wrapped.pop(ciphertext)

    def recall(self, ciphertext: bytes) -> None:
        self._wrapped[ciphertext] = self._forgotten.pop(ciphertext)

    async def until_asked(self, operation: str) -> None:
        while operation not in self.asked:
            self._news.clear()
            await self._news.wait()

    async def answer(self, request: web.Request) -> web.Response:
        operation = request.headers["X-Amz-Target"].partition(".")[2]
        body = await request.json()
        self.asked.append(operation)
        self._news.set()
        if self.stall is not None:
            await self.stall.wait()
        if self.refuse_next:
            self.refuse_next -= 1
            return _error("ThrottlingException")
        if self.refuse:
            return _error(self.refuse)
        kept = self._wrapped.get(base64.b64decode(body.get("CiphertextBlob", "")))
        arn = kept[0] if kept is not None else self.named.get(body["KeyId"], "")
        if arn in self.refused:
            return _error(self.refused[arn])
        if operation == "Decrypt":
            if kept is None or kept[2] != body["EncryptionContext"]:
                return _error("InvalidCiphertextException")
            return _json({"KeyId": kept[0], "Plaintext": base64.b64encode(kept[1]).decode()})
        if not arn:
            return _error("NotFoundException")
        plain = base64.b64decode(body["Plaintext"]) if operation == "Encrypt" else secrets.token_bytes(32)
        ciphertext = secrets.token_bytes(184)
        self._wrapped[ciphertext] = arn, plain, body["EncryptionContext"]
        answer = {"KeyId": arn, "CiphertextBlob": base64.b64encode(ciphertext).decode()}
        if operation == "GenerateDataKey":
            answer["Plaintext"] = base64.b64encode(plain).decode()
        return _json(answer)


@contextlib.asynccontextmanager
async def fake_kms() -> AsyncIterator[FakeKms]:
    door = FakeKms()
    app = web.Application()
    app.router.add_post("/", door.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    door.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield door
    finally:
        await runner.cleanup()


def _error(name: str) -> web.Response:
    text = "User: arn:aws:iam::1:user/somebody is not told about"
    return _json({"__type": name, "message": text}, _STATUS.get(name, 400))


def _json(data: Any, status: int = 200) -> web.Response:
    return web.Response(body=json.dumps(data).encode(), status=status, content_type="application/x-amz-json-1.1")
