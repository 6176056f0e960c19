"""One administrator of an empty registry, who asks at either door: docker's (`oci`) and the AWS one (`api`).

The registry is whole (`whole_registry`: the real doors over the real rooms, a worker's cache between them and the rows)
and small (`QUOTAS`). What is asked for is given as it came, and a refusal as its word: ECR's error, or status and code.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from proxy.auth.secrets import seal_secret
from proxy.metadata.client.cache import CachedMetadata
from proxy.metadata.client.epochs import Epochs
from proxy.model.quotas import Quotas
from support import response_shapes
from support.memory_connection import Answer
from support.registry_client import RegistryClient
from support.sigv4_signer import Credentials
from support.small_registry import IMAGES_MAX, PART_MIN, PARTS_MAX, REPOSITORIES_MAX, TAGS_MAX
from support.whole_registry import ACCOUNT, whole_registry

QUOTAS = Quotas(
    repositories=REPOSITORIES_MAX,
    images=IMAGES_MAX,
    tags=TAGS_MAX,
    layer_part_min=PART_MIN,
    layer_parts=PARTS_MAX,
)
FRAME_LENGTH = 4096  # so that some layers are of several frames
_NEXT = re.compile(r'<([^>]+)>; rel="next"')


class BothProtocols:
    def __init__(self, doors: RegistryClient, rows: sqlite3.Connection) -> None:
        self._doors = doors
        self._rows = rows

    async def api(self, operation: str, **parameters: Any) -> tuple[str, dict[str, Any]]:
        """The error's name, empty where there is none, and the document. Nothing in it is unknown to ECR's model."""
        answer = await self._doors.ask("ecr", operation, parameters, self._doors.keys["administrator"])
        document: dict[str, Any] = json.loads(answer.body)
        if answer.status == 200:
            response_shapes.read("ecr", operation, answer.body)
            return "", document
        assert document["__type"] in response_shapes.declared("ecr", operation), f"{operation}: {document}"
        return document["__type"], document

    async def api_pages(self, operation: str, member: str, limit: int, **parameters: Any) -> tuple[str, list[Any]]:
        """All of a list, `limit` at a time; each page but the last is full."""
        found: list[Any] = []
        more: dict[str, str] = {}
        while True:
            word, answer = await self.api(operation, **parameters, maxResults=limit, **more)
            if word:
                return word, []
            found += answer[member]
            if "nextToken" not in answer:
                assert len(answer[member]) <= limit
                return "", found
            assert len(answer[member]) == limit
            more = {"nextToken": answer["nextToken"]}

    async def oci(self, method: str, target: str, body: bytes = b"", **lines: str) -> tuple[str, Answer]:
        """Status and code of a refusal, of HEAD the status alone; empty where there is none."""
        typed = [(name.replace("_", "-"), value) for name, value in lines.items()]
        answer = await self._doors.docker(method, f"/v2/{target}", self._doors.registry.password, body, typed)
        if answer.status < 300:
            return "", answer
        code = json.loads(answer.body)["errors"][0]["code"] if answer.body else ""
        return f"{answer.status} {code}".strip(), answer

    async def oci_pages(self, target: str, member: str, limit: int, query: str = "") -> tuple[str, list[Any]]:
        """All of a list, by its links."""
        found: list[Any] = []
        at = f"{target}?n={limit}{query}"
        while at:
            word, answer = await self.oci("GET", at)
            if word:
                return word, []
            page = json.loads(answer.body)[member]
            assert len(page) <= limit
            found += page
            link = _NEXT.fullmatch(answer.headers.get("link", ""))
            at = link[1].removeprefix("/v2/") if link else ""
        return "", found

    async def begin(self, name: str) -> tuple[str, str]:
        """An upload at docker's door: its id."""
        word, answer = await self.oci("POST", f"{name}/blobs/uploads/")
        return word, answer.headers.get("docker-upload-uuid", "")

    async def append(self, name: str, upload: str, start: int, content: bytes) -> str:
        place = f"{start}-{start + len(content) - 1}"
        return (await self.oci("PATCH", f"{name}/blobs/uploads/{upload}", content, Content_Range=place))[0]

    async def finish(self, name: str, upload: str, digest: str) -> str:
        return (await self.oci("PUT", f"{name}/blobs/uploads/{upload}?digest={quote(digest)}"))[0]

    async def begin_parts(self, name: str) -> tuple[str, str]:
        word, answer = await self.api("InitiateLayerUpload", repositoryName=name)
        return word, answer.get("uploadId", "")

    async def add_part(self, name: str, upload: str, start: int, content: bytes) -> tuple[str, int]:
        """And the last byte that is there, where the answer tells."""
        word, answer = await self.api(
            "UploadLayerPart",
            repositoryName=name,
            uploadId=upload,
            partFirstByte=start,
            partLastByte=start + len(content) - 1,
            layerPartBlob=base64.b64encode(content).decode(),
        )
        return word, answer.get("lastByteReceived", answer.get("lastValidByteReceived", -1))

    async def complete(self, name: str, upload: str, digest: str) -> str:
        word, answer = await self.api(
            "CompleteLayerUpload", repositoryName=name, uploadId=upload, layerDigests=[digest]
        )
        assert word or answer["layerDigest"] == digest
        return word

    async def linked(self, url: str) -> bytes:
        """What is behind a link of GetDownloadUrlForLayer, which is all that it takes."""
        target = re.sub("^[a-z]+://[^/]+", "", url)
        answer = await self._doors.plain("GET", target, [])
        assert answer.status == 200, answer
        return answer.body

    def counters(self) -> tuple[int, Mapping[str, int], Mapping[tuple[str, str], int]]:
        """What quotas go by: repositories of the account, images of each, tags of each image."""
        run = self._rows.execute
        ((of_account,),) = run("SELECT repositories FROM accounts WHERE account = ?", [ACCOUNT])
        of_repositories = dict(run("SELECT name, images FROM repositories WHERE account = ?", [ACCOUNT]))
        of_images = {
            (name, digest): tags
            for name, digest, tags in run(
                "SELECT name, digest, tags FROM images JOIN repositories USING (repository_id) WHERE account = ?",
                [ACCOUNT],
            )
        }
        return of_account, of_repositories, of_images


@contextlib.asynccontextmanager
async def both_protocols(folder: Path) -> AsyncIterator[BothProtocols]:
    epochs = await asyncio.to_thread(Epochs, folder / "epochs")
    async with whole_registry(
        folder,
        wrap_metadata=lambda metadata: CachedMetadata.wrap(metadata, epochs),
        frame_length=FRAME_LENGTH,
        quotas=QUOTAS,
    ) as registry:
        key = "AKIAADMINISTRATOR000", hashlib.sha256(b"administrator").hexdigest()[:40]
        sealed = seal_secret(registry.secrets, *key)
        await registry.metadata.create_access_key(ACCOUNT, "administrator", key[0], sealed)
        doors = RegistryClient(registry, {"administrator": Credentials(*key)}, folder / "rows.db")
        with contextlib.closing(sqlite3.connect(f"file:{folder}/rows.db?mode=ro", uri=True)) as rows:
            yield BothProtocols(doors, rows)
        await doors.close()
