"""IAM over real HTTP: the query protocol, the door, the evaluator, and a metadata service with rows of its own.

What is left out is the signature: whoever's access key id stands in the Authorization header is the caller. The real
dispatcher, which checks it, is `ecr.routes`.
"""

from __future__ import annotations

import asyncio
import re
import time
from html import escape
from pathlib import Path
from typing import Any

import boto3
from aiohttp import web
from botocore.config import Config

from harness.iamshapes import check
from harness.metadata import ACCOUNT, Clock, sqlite_service
from proxy.auth.access import Access
from proxy.auth.envelope import SmallSealer
from proxy.auth.policy.context import RequestFacts
from proxy.auth.secrets import PURPOSE
from proxy.ecr.iam import Iam
from proxy.metadata.cache import CachedMetadata
from proxy.metadata.client import MetadataClient
from proxy.metadata.epochs import Epochs
from proxy.metadata.service import Service
from proxy.model.errors import Code, Failure
from proxy.model.identity import Caller, Principal
from proxy.shapes import models, query
from proxy.shapes.validation import validate

ADMINISTRATOR = "AKIAADMINISTRATOR000"
models.service("iam")  # read before anything listens: it is files, and the loop must not wait for them
_KEY_ID = re.compile(r"Credential=([A-Z0-9]+)/")


class IamServer:
    """Begin it, ask by `client`, finish it. Every answer is held against the model before it is rendered."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sealer = SmallSealer([("one", bytes(32))], PURPOSE)
        self._service: Service | None = None
        self._runner: web.AppRunner | None = None
        self._metadata: CachedMetadata | None = None
        self.url = ""

    async def begin(self) -> None:
        self._service = await sqlite_service(self._folder, Clock(time.time()))
        await self._service.bootstrap(ACCOUNT, access_key_id=ADMINISTRATOR, sealed_secret=b"unread")
        epochs = await asyncio.to_thread(Epochs, self._folder / "epochs")
        self._metadata = CachedMetadata(MetadataClient(f"unix:{self._folder}/m.sock"), epochs)
        app = web.Application()
        app.router.add_post("/", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def finish(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._metadata is not None:
            await self._metadata.close()
        if self._service is not None:
            await self._service.close()

    def client(self, access_key_id: str = ADMINISTRATOR) -> Any:
        """A boto3 client, whose calls block: they are made in a thread."""
        return boto3.session.Session().client(
            "iam",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=access_key_id,
            aws_secret_access_key="unread",
            config=Config(retries={"total_max_attempts": 1}),
        )

    async def _answer(self, request: web.Request) -> web.Response:
        try:
            text = await self._run(request)
        except Failure as failure:
            name = {Code.ACCESS_DENIED: "AccessDenied", Code.UNKNOWN_OPERATION: "InvalidAction"}.get(failure.code)
            said = f"<Code>{name or failure.code}</Code><Message>{escape(failure.message)}</Message>"
            return web.Response(
                status=400, text=f"<ErrorResponse><Error><Type>Sender</Type>{said}</Error></ErrorResponse>"
            )
        return web.Response(text=text, content_type="text/xml")

    async def _run(self, request: web.Request) -> str:
        form = query.read_form(await request.read())
        action = query.read_action("iam", form)
        parameters = query.read_parameters("iam", action, form)
        validate(action, parameters, "iam")
        assert self._metadata is not None
        door = Iam(self._metadata, Access(self._metadata), self._sealer)
        facts = RequestFacts(time.time(), "127.0.0.1", False, request.headers["User-Agent"], "us-east-1")
        answer = await door.answer(action, Caller(await self._principal(request)), parameters, facts)
        check(action, answer)
        return query.render("iam", action, answer, "request")

    async def _principal(self, request: web.Request) -> Principal:
        named = _KEY_ID.search(request.headers["Authorization"])
        assert named is not None
        assert self._metadata is not None
        key = await self._metadata.access_key(named[1])
        if key is None:
            raise Failure(Code.ACCESS_DENIED, "no such key")
        return key.principal
