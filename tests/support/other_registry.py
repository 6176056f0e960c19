"""A registry that is somebody else's: the little of OCI Distribution that the rig asks for, in this loop.

It keeps blobs and manifests, remembers what it was asked and with which Authorization, and does wrong what its fields
say: tokens by a Bearer challenge, Basic, layers that lie elsewhere, bodies that are short, long or changed, an upload
that goes on at a stranger's.
"""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.test_utils import TestServer

IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: `authorization` as it came, "" for none."""

    method: str
    path: str
    authorization: str
    chunked: bool
    range: str


@dataclass(slots=True)
class FarRegistry:
    """`basic`: user:password it wants; `tokens`: wants them as a Bearer token of its own realm instead."""

    basic: str = ""
    tokens: bool = False
    realm: str = ""  # of the challenge; its own /token unless it is set
    token_life: int = 300
    layers_at: str = ""  # where a blob's GET is sent to, with 307
    uploads_at: str = ""  # origin that Location names
    spoil: Callable[[bytes], bytes] = bytes  # what becomes of a blob's bytes on their way out
    no_ranges: bool = False
    mounts: bool = True
    refuse: tuple[int, str] = (0, "")  # each POST of an upload: status and code
    answers: dict[str, Answer] = field(default_factory=dict)  # "METHOD /path" to what is answered instead
    asked: list[Asked] = field(default_factory=list)
    blobs: dict[str, dict[str, bytes]] = field(default_factory=dict)  # repository to digest to bytes
    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)  # to media type and bytes
    issued: list[str] = field(default_factory=list)  # scopes of each token, joined
    page: int = 1000  # tags, or referrers, a page, at most
    no_referrers: bool = False  # it knows no referrers API
    headers: dict[str, str] = field(default_factory=dict)  # of each answer, such as ratelimit-remaining
    pieces: Callable[[bytes], AsyncIterator[bytes]] | None = None  # a blob's body as it is sent, cut where it raises
    address: str = ""
    _open: dict[str, bytes] = field(default_factory=dict)

    @asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        """host:port, while it serves."""
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        server = TestServer(app)
        await server.start_server(ssl=tls)
        self.address = f"127.0.0.1:{server.port}"
        try:
            yield self.address
        finally:
            await server.close()

    def paths(self, method: str) -> list[str]:
        return [each.path for each in self.asked if each.method == method]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        response = await self._answered(request)
        if not response.prepared:
            response.headers.update(self.headers)
        return response

    async def _answered(self, request: web.Request) -> web.StreamResponse:
        sent = request.headers.get("Authorization", "")
        chunked = "chunked" in request.headers.get("Transfer-Encoding", "")
        self.asked.append(Asked(request.method, request.path_qs, sent, chunked, request.headers.get("Range", "")))
        if (instead := self.answers.get(f"{request.method} {request.path}")) is not None:
            return await instead(request)
        if request.path == "/token":
            return self._token(request, sent)
        if not request.path.startswith("/elsewhere/") and not self._known(sent):
            return self._challenge()
        if request.path == "/v2/":
            return web.json_response({})
        parts = request.path.removeprefix("/elsewhere").split("/")
        for at, word in enumerate(parts):
            if word in ("blobs", "manifests", "tags", "referrers") and at > 2:
                repository, rest = "/".join(parts[2:at]), parts[at + 1 :]
                if word == "manifests":
                    return await self._manifest(request, repository, rest[0])
                if word == "referrers":
                    return self._referrers(request, repository, rest[0])
                if word == "tags":
                    return self._tags(request, repository)
                if rest[0] == "uploads":
                    return await self._upload(request, repository, rest[1])
                return await self._blob(request, repository, rest[0])
        return web.Response(status=404)

    def add_image(self, repository: str, tag: str, *layers: bytes) -> str:
        """An image of these layers, a manifest of the OCI's; its digest."""
        here = self.blobs.setdefault(repository, {})
        described = []
        for content in (b"{}", *layers):
            digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
            here[digest] = content
            described.append({"mediaType": LAYER, "digest": digest, "size": len(content)})
        config = described[0] | {"mediaType": "application/vnd.oci.image.config.v1+json"}
        manifest = {"schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": described[1:]}
        return self.add_manifest(repository, tag, IMAGE, json.dumps(manifest).encode())

    def add_manifest(self, repository: str, tag: str, media_type: str, content: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        for name in (tag, digest):
            self.manifests[repository, name] = (media_type, content)
        return digest

    # ---- who asks ----------------------------------------------------------------------------------------------------
    def _known(self, sent: str) -> bool:
        if self.tokens:
            return sent.startswith("Bearer t") and int(sent.removeprefix("Bearer t")) < len(self.issued)
        return not self.basic or sent == self._basic()

    def _basic(self) -> str:
        return "Basic " + base64.b64encode(self.basic.encode()).decode()

    def _challenge(self) -> web.Response:
        realm = self.realm or f"http://{self.address}/token"
        wanted = f'Bearer realm="{realm}",service="far",scope="a:b:c"' if self.tokens else 'Basic realm="far"'
        return error(401, "UNAUTHORIZED", {"WWW-Authenticate": wanted})

    def _token(self, request: web.Request, sent: str) -> web.Response:
        if self.basic and sent != self._basic():
            return error(401, "UNAUTHORIZED")
        self.issued.append(" ".join(request.query.getall("scope", [])))
        return web.json_response({"token": f"t{len(self.issued) - 1}", "expires_in": self.token_life})

    # ---- blobs -------------------------------------------------------------------------------------------------------
    async def _upload(self, request: web.Request, repository: str, name: str) -> web.Response:
        here = self.blobs.setdefault(repository, {})
        where = f"{self.uploads_at}/v2/{repository}/blobs/uploads/"
        if request.method == "POST":
            if self.refuse[0]:
                return error(*self.refuse)
            mounted = request.query.get("mount", "")
            source = self.blobs.get(request.query.get("from", ""), {})
            if self.mounts and mounted in source:
                here[mounted] = source[mounted]
                return web.Response(status=201, headers={"Location": f"/v2/{repository}/blobs/{mounted}"})
            name = f"u{len(self._open)}"
            self._open[name] = b""
            return web.Response(status=202, headers={"Location": f"{where}{name}?state=a%2Bb"})
        if request.query.get("state") != "a+b":
            return error(404, "BLOB_UPLOAD_UNKNOWN")
        self._open[name] += await request.read()
        if request.method == "PATCH":
            return web.Response(status=202, headers={"Location": f"{where}{name}?state=a%2Bb"})
        digest = f"sha256:{hashlib.sha256(self._open[name]).hexdigest()}"
        if request.query["digest"] != digest:
            return error(400, "DIGEST_INVALID")
        here[digest] = self._open[name]
        return web.Response(status=201, headers={"Location": f"/v2/{repository}/blobs/{digest}"})

    async def _blob(self, request: web.Request, repository: str, digest: str) -> web.StreamResponse:
        found = self.blobs.get(repository, {}).get(digest)
        if found is None:
            return error(404, "BLOB_UNKNOWN")
        if self.layers_at and not request.path.startswith("/elsewhere/"):
            return web.Response(status=307, headers={"Location": f"{self.layers_at}{request.path}"})
        asked = request.headers.get("Range", "")
        if asked and not self.no_ranges:
            start, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(start), int(end) if end else len(found) - 1
            told = {"Content-Range": f"bytes {first}-{last}/{len(found)}"}
            return await self._sent(request, 206, self.spoil(found[first : last + 1]), told)
        return await self._sent(request, 200, self.spoil(found), {})

    async def _sent(
        self, request: web.Request, status: int, content: bytes, headers: dict[str, str]
    ) -> web.StreamResponse:
        if self.pieces is None or request.method == "HEAD":
            return web.Response(status=status, body=content, headers=headers)
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = len(content)
        await response.prepare(request)
        try:
            async for piece in self.pieces(content):
                await response.write(piece)
        except ConnectionError:
            if request.transport is not None:
                request.transport.close()
        return response

    # ---- manifests ---------------------------------------------------------------------------------------------------
    async def _manifest(self, request: web.Request, repository: str, reference: str) -> web.Response:
        if request.method == "PUT":
            content = await request.read()
            digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
            for name in (reference, digest):
                self.manifests[repository, name] = (request.content_type, content)
            return web.Response(status=201)
        if (repository, reference) not in self.manifests:
            return error(404, "MANIFEST_UNKNOWN")
        kind, content = self.manifests[repository, reference]
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        return web.Response(body=content, headers={"Content-Type": kind, "Docker-Content-Digest": digest})

    def add_referrer(self, repository: str, subject: str, kind: str, layer: bytes = b"{}", tag: str = "") -> str:
        """An artifact that refers to `subject`; its digest."""
        empty = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": _digest(b"{}"), "size": 2}
        self.blobs.setdefault(repository, {}).update({_digest(b"{}"): b"{}", _digest(layer): layer})
        manifest = {
            "schemaVersion": 2,
            "mediaType": IMAGE,
            "artifactType": kind,
            "config": empty,
            "layers": [{"mediaType": LAYER, "digest": _digest(layer), "size": len(layer)}],
            "subject": {"mediaType": IMAGE, "digest": subject, "size": 1},
        }
        content = json.dumps(manifest).encode()
        return self.add_manifest(repository, tag or _digest(content), IMAGE, content)

    def referrers(self, repository: str, subject: str) -> list[dict[str, object]]:
        """Descriptors, by digest."""
        found: dict[str, dict[str, object]] = {}
        for (where, _), (kind, content) in self.manifests.items():
            document = json.loads(content)
            if where == repository and document.get("subject", {}).get("digest") == subject:
                described = {"mediaType": kind, "digest": _digest(content), "size": len(content)}
                found[_digest(content)] = described | {"artifactType": document.get("artifactType", "")}
        return [found[digest] for digest in sorted(found)]

    def _referrers(self, request: web.Request, repository: str, subject: str) -> web.Response:
        if self.no_referrers:
            return error(404, "MANIFEST_UNKNOWN")
        last = request.query.get("last", "")
        rest = [each for each in self.referrers(repository, subject) if str(each["digest"]) > last]
        shown = rest[: self.page]
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": shown}
        headers = {"Content-Type": INDEX}
        if len(rest) > len(shown):
            headers["Link"] = f'</v2/{repository}/referrers/{subject}?last={shown[-1]["digest"]}>; rel="next"'
        return web.Response(body=json.dumps(index).encode(), headers=headers)

    def _tags(self, request: web.Request, repository: str) -> web.Response:
        last = request.query.get("last", "")
        names = sorted(name for where, name in self.manifests if where == repository and ":" not in name)
        rest = [name for name in names if name > last]
        shown = rest[: self.page]
        more = {"Link": f'</v2/{repository}/tags/list?last={shown[-1]}>; rel="next"'} if len(rest) > len(shown) else {}
        return web.json_response({"name": repository, "tags": shown}, headers=more)


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def error(status: int, code: str, headers: dict[str, str] | None = None) -> web.Response:
    """An error in the specification's form."""
    return web.json_response({"errors": [{"code": code, "message": "no"}]}, status=status, headers=headers)
