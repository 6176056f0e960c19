"""A door that only proves and reads: `ecr/signed_request.py` behind the real HTTP server, keys and principals in dicts.

    POST or GET /        read whole: answers who signed, and the body
    POST /part           streamed: a layer part, of which nothing is kept before the proof
    POST /unread         streamed and proven without having been looked at
    POST /careless       streamed and left without a proof

Refusals are answered as `{"reason": …, "message": …}`, so that no door's wording is in between. `clock_shift` seconds
are added to the door's clock, not to the clients'.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from proxy.auth import secrets, sessions
from proxy.auth.callers import Callers
from proxy.auth.envelope import SmallSealer
from proxy.auth.secrets import seal_secret
from proxy.auth.sessions import Sessions
from proxy.auth.sigv4 import SignatureRefused
from proxy.ecr.errors import UnreadableRequest
from proxy.ecr.last_use import LastUses
from proxy.ecr.services import ECR, service_of
from proxy.ecr.signed_request import Signatures, claim_of
from proxy.ecr.streaming_json import StreamedObject
from proxy.http.server import HttpServer, Limits
from proxy.model.errors import Failure
from proxy.model.identity import (
    AccessKey,
    AttachedPolicy,
    Caller,
    Principal,
    PrincipalKind,
    Session,
    SessionKind,
)

ACCOUNT = "123456789012"
REGION = "eu-west-1"
ALICE = Principal("AIDAALICE", ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/alice", "alice")
ROLE = Principal("AROAROLE", ACCOUNT, f"arn:aws:iam::{ACCOUNT}:role/ci", "ci", PrincipalKind.ROLE)
PULLS = AttachedPolicy("{}", "pulls", f"arn:aws:iam::{ACCOUNT}:policy/pulls")
KEY = ("AKIAALICEALICEALICE1", "alice/secret+key/that+must/never+be+seen")
TARGET = "AmazonEC2ContainerRegistry_V20150921."
JSON_HEADERS = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": TARGET + "ListImages"}
PART_MAX = 20_971_520  # of the API model
PART = replace(ECR, body_max=30 * 1024 * 1024)

Lines = list[tuple[str, str]]


class People:
    """The look-ups of `contract.Metadata` that a signature hangs on; `uses` are the notes of used keys."""

    def __init__(self, sealer: SmallSealer) -> None:
        self.keys = {KEY[0]: AccessKey(KEY[0], seal_secret(sealer, *KEY), ALICE)}
        self.principals = {each.principal_id: each for each in (ALICE, ROLE)}
        self.documents = {PULLS.arn: PULLS}
        self.uses: list[tuple[str, float, str, str]] = []

    async def access_key(self, access_key_id: str) -> AccessKey | None:
        return self.keys.get(access_key_id)

    async def principal(self, principal_id: str) -> Principal | None:
        return self.principals.get(principal_id)

    async def policy_documents(self, account: str, arns: Sequence[str]) -> Sequence[AttachedPolicy]:
        return [self.documents[arn] for arn in arns if arn in self.documents]

    async def note_key_use(self, access_key_id: str, at: float, region: str, service: str) -> None:
        self.uses.append((access_key_id, at, region, service))


@dataclass(frozen=True, slots=True)
class Answer:
    """`said` is the JSON of the body, None where it is something else."""

    status: int
    said: Any
    raw: bytes = field(repr=False)


class SignedHandler:
    """A door that listens. `callers` are those of all requests that were proven, `kept` what was kept of parts."""

    def __init__(self) -> None:
        keys = [("master-1", bytes(range(32)))]
        sealer = SmallSealer(keys, secrets.PURPOSE)
        self.people = People(sealer)
        self.sessions = Sessions(SmallSealer(keys, sessions.PURPOSE))
        self.clock_shift = 0.0
        self.uses = LastUses(self.people.note_key_use, self.now)
        self.signatures = Signatures(
            self.people,
            sealer,
            self.sessions,
            region=REGION,
            clock=self.now,
            callers=Callers(self.people, self.now),
            uses=self.uses,
        )
        self.callers: list[Caller] = []
        self.kept: list[tuple[Mapping[str, Any], str]] = []
        self.mistakes: list[RuntimeError] = []
        self._server = HttpServer(lambda request: ("ecr", self._answer), Limits())
        self.port = 0

    def now(self) -> float:
        return time.time() + self.clock_shift

    async def __aenter__(self) -> SignedHandler:
        listening = socket.create_server(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        await self._server.begin(listening)
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._server.finish(0.0)
        await self.uses.idle()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def session(self, principal: Principal = ROLE, **other: Any) -> tuple[str, str, str]:
        """(access key id, secret, token) of a fresh session of an hour."""
        now = self.now()
        info = Session(SessionKind.ROLE, "job-1", now, now + 3600)
        made = self.sessions.issue(principal, replace(info, **other))
        return made.access_key_id, made.secret, made.token

    def signed(
        self,
        body: bytes | Any = b"{}",
        *,
        service: str = "ecr",
        region: str = REGION,
        key: tuple[str, ...] = KEY,
        path: str = "/",
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
    ) -> Lines:
        """The header lines of a request that botocore has signed. `body` may be a file; `key` may have a token."""
        plain = JSON_HEADERS if headers is None else headers
        request = AWSRequest(method=method, url=f"http://{self.address}{path}", data=body, headers=plain)
        SigV4Auth(Credentials(*key), service, region).add_auth(request)
        return [("Host", self.address), *((name, str(value)) for name, value in request.headers.items())]

    def presigned(
        self,
        query: str = "Action=GetCallerIdentity&Version=2011-06-15",
        *,
        service: str = "sts",
        region: str = REGION,
        key: tuple[str, ...] = KEY,
        expires: int = 60,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[str, Lines]:
        """(request target, header lines) of a query that botocore has signed."""
        request = AWSRequest(method=method, url=f"http://{self.address}/?{query}", headers=dict(headers or {}))
        SigV4QueryAuth(Credentials(*key), service, region, expires).add_auth(request)
        target = request.url.partition(self.address)[2]
        return target, [("Host", self.address), *(headers or {}).items()]

    async def send(
        self, lines: Sequence[tuple[str, str]], body: bytes = b"{}", *, target: str = "/", method: str = "POST"
    ) -> Answer:
        """Send these header lines and this body, and read until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            framed = any(name.lower() in ("transfer-encoding", "content-length") for name, _ in lines)
            framing = [] if framed or not body else [("Content-Length", str(len(body)))]
            head = "".join(f"{name}: {value}\r\n" for name, value in (*lines, *framing, ("Connection", "close")))
            writer.write(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("utf-8", "surrogateescape") + body)
            raw = await asyncio.wait_for(reader.read(), 20)
        finally:
            writer.close()
        return read_answer(raw)

    async def cut_short(self, lines: Lines, body: bytes = b"", target: str = "/") -> bytes:
        """What is answered to a request of whose body no more than this comes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            head = "".join(f"{name}: {value}\r\n" for name, value in (*lines, ("Content-Length", "100000")))
            writer.write(f"POST {target} HTTP/1.1\r\n{head}\r\n".encode() + body)
            return await asyncio.wait_for(reader.readuntil(b"}"), 5)
        finally:
            writer.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            claim = claim_of(request)
            if request.path == "/part":
                return web.json_response(await self._part(request))
            if request.path == "/careless":
                await self._careless(request)
            if request.path == "/unread":
                async with self.signatures.stream(request, claim, PART) as stream:
                    return web.json_response({"arn": (await stream.prove()).arn})
            caller, body = await self.signatures.read(request, claim, service_of(request))
        except SignatureRefused as refused:
            return web.json_response({"reason": refused.reason, "message": refused.message}, status=403)
        except UnreadableRequest as unreadable:
            return web.json_response({"reason": unreadable.error.name}, status=unreadable.error.status)
        except Failure as failure:
            return web.json_response({"reason": failure.code, "message": failure.message}, status=400)
        self.callers.append(caller)
        return web.json_response({"arn": caller.arn, "body": body.decode("latin-1")})

    async def _part(self, request: web.Request) -> dict[str, Any]:
        reader, hasher = StreamedObject("layerPartBlob", PART_MAX), hashlib.sha256()
        async with self.signatures.stream(request, claim_of(request), PART) as body:
            async for chunk in body:
                hasher.update(reader.feed(chunk))
            self.callers.append(await body.prove())
            members = reader.finish()
        self.kept.append((members, hasher.hexdigest()))
        return {"length": reader.length}

    async def _careless(self, request: web.Request) -> None:
        try:
            async with self.signatures.stream(request, claim_of(request), PART) as body:
                async for _ in body:
                    pass
        except RuntimeError as mistake:
            self.mistakes.append(mistake)


def read_answer(raw: bytes) -> Answer:
    head, _, content = raw.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    if status == 100:
        return read_answer(content)
    try:
        said = json.loads(content)
    except ValueError:
        said = None
    return Answer(status, said, content)
