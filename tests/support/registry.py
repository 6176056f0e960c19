"""A plain OCI client over aiohttp that trusts nobody: every body it reads is counted and hashed.

It says what it sent and what came back; it never retries, so that a test sees each answer.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp
from yarl import URL

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
ACCEPT = ", ".join(
    [
        OCI_MANIFEST,
        OCI_INDEX,
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    ]
)


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: status, headers, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def expect(self, *statuses: int) -> Answer:
        assert self.status in statuses, f"{self.status}, not {statuses}: {self.body[:500]!r} {dict(self.headers)}"
        return self

    def json(self) -> Any:
        return json.loads(self.body)

    def code(self) -> str:
        """The code of an OCI error body."""
        code: str = self.json()["errors"][0]["code"]
        return code


class Registry:
    """One user of one registry. `fresh` opens a connection per request, which spreads requests over workers."""

    def __init__(
        self, url: str, password: str, *, fresh: bool = False, seconds: float = 60, trust: ssl.SSLContext | None = None
    ) -> None:
        self.url = url
        self._trust: ssl.SSLContext | bool = trust or True
        basic = base64.b64encode(f"AWS:{password}".encode()).decode()
        self.headers = {"Authorization": f"Basic {basic}"}
        self._fresh = fresh
        self._seconds = seconds
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers=self.headers,
            connector=aiohttp.TCPConnector(force_close=self._fresh, limit=0, ssl=self._trust),
            timeout=aiohttp.ClientTimeout(total=self._seconds),
            auto_decompress=False,
        )
        # aiohttp asks idempotent requests again on a fresh connection, which would hide what became of the first.
        self._session._retry_connection = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request; `path` is a path or whatever Location said."""
        assert self._session is not None
        url = URL(self.url).join(URL(path, encoded=True))
        data = io.BytesIO(body) if isinstance(body, bytes) and body else body  # sent in pieces: the loop goes on
        async with self._session.request(method, url, data=data, headers=headers, allow_redirects=False) as answer:
            return Answer(answer.status, answer.headers.copy(), await answer.read())

    # ---- pushing ---------------------------------------------------------------------------------------------------
    async def begin(self, repository: str) -> str:
        """Open an upload; returns its Location."""
        return (await self.ask("POST", f"/v2/{repository}/blobs/uploads/")).expect(202).headers["Location"]

    async def chunk(self, location: str, content: bytes, offset: int | None = None) -> Answer:
        headers = {"Content-Type": "application/octet-stream"}
        if offset is not None:
            headers["Content-Range"] = f"{offset}-{offset + len(content) - 1}"
        return await self.ask("PATCH", location, body=content, headers=headers)

    async def close_upload(self, location: str, digest: str, content: bytes | None = None) -> Answer:
        joined = f"{location}{'&' if '?' in location else '?'}digest={quote(digest)}"
        return await self.ask("PUT", joined, body=content, headers={"Content-Type": "application/octet-stream"})

    async def push_blob(self, repository: str, content: bytes) -> str:
        """POST, one PATCH, PUT, as docker does it; returns the digest once it is acknowledged."""
        digest = digest_of(content)
        location = await self.begin(repository)
        if content:
            location = (await self.chunk(location, content)).expect(202).headers["Location"]
        (await self.close_upload(location, digest)).expect(201)
        return digest

    async def put_manifest(
        self, repository: str, reference: str, content: bytes, media_type: str = OCI_MANIFEST
    ) -> Answer:
        return await self.ask(
            "PUT", f"/v2/{repository}/manifests/{reference}", body=content, headers={"Content-Type": media_type}
        )

    async def push_image(self, repository: str, tag: str, layers: Sequence[bytes], note: str = "") -> bytes:
        """Push layers, a config and a manifest that names them; returns the manifest's bytes once acknowledged."""
        config = json.dumps(
            {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}, "note": note}
        ).encode()
        for content in (*layers, config):
            await self.push_blob(repository, content)
        manifest = image_manifest(config, layers)
        (await self.put_manifest(repository, tag, manifest)).expect(201)
        return manifest

    # ---- pulling ---------------------------------------------------------------------------------------------------
    async def manifest(self, repository: str, reference: str) -> Answer:
        return await self.ask("GET", f"/v2/{repository}/manifests/{reference}", headers={"Accept": ACCEPT})

    async def blob(self, repository: str, digest: str, headers: Mapping[str, str] | None = None) -> Answer:
        return await self.ask("GET", f"/v2/{repository}/blobs/{digest}", headers=headers)

    async def pull_image(self, repository: str, reference: str) -> tuple[bytes, list[bytes]]:
        """A manifest and its blobs (config first); every digest and size is checked here."""
        answer = (await self.manifest(repository, reference)).expect(200)
        if ":" in reference:
            assert digest_of(answer.body) == reference
        facts = answer.json()
        blobs = []
        for descriptor in (facts["config"], *facts["layers"]):
            content = (await self.blob(repository, descriptor["digest"])).expect(200).body
            assert len(content) == descriptor["size"], descriptor
            assert digest_of(content, descriptor["digest"].partition(":")[0]) == descriptor["digest"]
            blobs.append(content)
        return answer.body, blobs


def image_manifest(config: bytes, layers: Sequence[bytes], **more: object) -> bytes:
    """An OCI image manifest for these blobs, as bytes."""
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": digest_of(config), "size": len(config)},
            "layers": [{"mediaType": OCI_LAYER, "digest": digest_of(each), "size": len(each)} for each in layers],
            **more,
        }
    ).encode()
