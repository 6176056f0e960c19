"""A whole registry that is asked through `memory_connection`, with the world of `support.examples` in it.

`ask` sends an operation of any of the three APIs as its clients write it, signed by whom one likes; `docker` a request
under `/v2/`; `rows` is what all tables hold. Metadata is the real service, asked through a worker's cache.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import psycopg

from proxy.auth.secrets import seal_secret
from proxy.awsmodel import models
from proxy.metadata.client.cache import CachedMetadata
from proxy.metadata.client.epochs import Epochs
from support.examples import (
    ACCOUNT,
    FULL_UPLOAD,
    KEY,
    PART,
    PART_UPLOAD,
    REPOSITORY,
    SHARED,
    SPARE_KEY,
    settle,
)
from support.examples_iam import MADE
from support.memory_connection import Answer, MemoryConnection
from support.oci_requests import EMPTY_CONFIG, OCI_IMAGE, digest_of, image
from support.sigv4_signer import Credentials, Lines, Scope, signed
from support.whole_registry import WholeRegistry, whole_registry

for _name in models.VERSIONS:
    models.service(_name)  # read before a loop runs that must not wait

HOST = "registry.test"
TARGET = "AmazonEC2ContainerRegistry_V20150921."
JSON_TYPE, FORM_TYPE = "application/x-amz-json-1.1", "application/x-www-form-urlencoded; charset=utf-8"
NOBODY = "nobody"
LAYER = b"a layer of team/app"
_KEPT_FOR_REPEATS = {"answers", "turns"}


class RegistryClient:
    """`keys` are those of users, by name: administrator, ann, two, nobody (who has no policy at all)."""

    def __init__(self, registry: WholeRegistry, keys: Mapping[str, Credentials], rows: Path) -> None:
        self.registry = registry
        self.keys = keys
        self._line = MemoryConnection(registry.server)
        self._rows = rows

    async def ask(self, service: str, operation: str, parameters: Mapping[str, Any], who: Credentials | None) -> Answer:
        """None signs nothing."""
        lines, body = written(service, operation, parameters)
        if who is not None:
            lines = signed("POST", "/", lines, body, who, Scope(service))
        return await self._whole("POST", "/", lines, body)

    async def docker(
        self, method: str, target: str, password: str, body: bytes = b"", lines: Sequence[tuple[str, str]] = ()
    ) -> Answer:
        basic = base64.b64encode(f"AWS:{password}".encode()).decode()
        return await self._whole(method, target, [("Host", HOST), ("Authorization", f"Basic {basic}"), *lines], body)

    async def plain(self, method: str, target: str, lines: Lines) -> Answer:
        """A request without credentials or a body."""
        return await self._whole(method, target, [("Host", HOST), *lines], b"")

    async def _whole(self, method: str, target: str, lines: Lines, body: bytes) -> Answer:
        answer = await self._line.ask(raw_request(method, target, lines, body), is_head=method == "HEAD")
        assert answer is not None, f"{method} {target} was answered"
        return answer

    async def password(self, who: Credentials) -> str:
        answer = await self.ask("ecr", "GetAuthorizationToken", {}, who)
        (data,) = json.loads(answer.body)["authorizationData"]
        return base64.b64decode(data["authorizationToken"]).decode().removeprefix("AWS:")

    async def permit(self, *statements: Mapping[str, Any]) -> None:
        """Give nobody one policy of these statements; without any, take it away again."""
        named = {"UserName": NOBODY, "PolicyName": "given"}
        if statements:
            text = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
            await self.registry.metadata.iam(ACCOUNT, "PutUserPolicy", {**named, "PolicyDocument": text})
        else:
            await self.registry.metadata.iam(ACCOUNT, "DeleteUserPolicy", named)

    async def rows(self) -> Mapping[str, Sequence[Any]]:
        """Every row of every table, but for the answers kept for who asks twice."""
        return await asyncio.to_thread(_dump, self._rows)

    async def close(self) -> None:
        await self._line.close()


@contextlib.asynccontextmanager
async def registry_client(folder: Path, **settings: Any) -> AsyncIterator[RegistryClient]:
    """`settings` are those of `whole_registry`."""
    epochs = await asyncio.to_thread(Epochs, folder / "epochs")
    async with whole_registry(
        folder, wrap_metadata=lambda metadata: CachedMetadata.wrap(metadata, epochs), **settings
    ) as registry:
        metadata = registry.metadata
        await settle(metadata, [*MADE, ("iam", "CreateUser", {"UserName": NOBODY})])
        keys: dict[str, Credentials] = {}
        for user, key_id in (("administrator", ""), (NOBODY, ""), ("ann", KEY), ("two", SPARE_KEY)):
            key = key_id or f"AKIASPECIMEN{user.upper()[:8]}", hashlib.sha256(user.encode()).hexdigest()[:40]
            await metadata.create_access_key(ACCOUNT, user, key[0], seal_secret(registry.secrets, *key))
            keys[user] = Credentials(*key)
        doors = RegistryClient(registry, keys, folder / "rows.db")
        for tag in ("v1", "v2"):
            await push(doors, REPOSITORY, tag, [LAYER, tag.encode()])
        for upload_id in (PART_UPLOAD, FULL_UPLOAD):
            begun, _ = await registry.uploads.begin_parts(ACCOUNT, REPOSITORY)
            rows = settings.get("database") or folder / "rows.db"
            await asyncio.to_thread(_rename_upload, rows, begun, upload_id)
        await registry.uploads.add_part(
            ACCOUNT, REPOSITORY, FULL_UPLOAD, first=0, length=len(PART), content=_once(PART)
        )
        await settle(metadata, [("ecr", "SetRepositoryPolicy", {"repositoryName": REPOSITORY, "policyText": SHARED})])
        tagging = {"resourceArn": f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/{REPOSITORY}"}
        await settle(metadata, [("ecr", "TagResource", {**tagging, "tags": [{"Key": "Team", "Value": "a"}]})])
        yield doors
        await doors.close()


async def push(doors: RegistryClient, repository: str, tag: str, layers: Sequence[bytes], password: str = "") -> str:
    """An image by its tag, as the administrator unless there is another's password; its digest."""
    password = password or doors.registry.password
    for content in (EMPTY_CONFIG, *layers):
        target = f"/v2/{repository}/blobs/uploads/?digest={digest_of(content)}"
        assert (await doors.docker("POST", target, password, content)).status == 201
    typed = [("Content-Type", OCI_IMAGE)]
    answer = await doors.docker("PUT", f"/v2/{repository}/manifests/{tag}", password, image(list(layers)), typed)
    assert answer.status == 201, answer.body
    return answer.headers["docker-content-digest"]


def written(service: str, operation: str, parameters: Mapping[str, Any]) -> tuple[Lines, bytes]:
    """Header lines, Host first, and body of an operation, not yet signed."""
    if service == "ecr":
        typed = [("Host", HOST), ("X-Amz-Target", TARGET + operation), ("Content-Type", JSON_TYPE)]
        return typed, json.dumps(parameters).encode()
    fields = [("Action", operation), ("Version", models.VERSIONS[service]), *form(parameters)]
    return [("Host", HOST), ("Content-Type", FORM_TYPE)], urlencoded(fields).encode()


def form(value: Any, name: str = "") -> list[tuple[str, str]]:
    """A value as fields of the query protocol."""
    if isinstance(value, Mapping):
        return [field for key, inner in value.items() for field in form(inner, f"{name}.{key}" if name else key)]
    if isinstance(value, (list, tuple)):
        if not value:
            return [(name, "")]
        return [field for at, inner in enumerate(value, 1) for field in form(inner, f"{name}.member.{at}")]
    if isinstance(value, bool):
        return [(name, "true" if value else "false")]
    return [(name, "" if value is None else str(value))]


def urlencoded(fields: Sequence[tuple[str, str]]) -> str:
    return "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in fields)


def raw_request(method: str, target: str, lines: Sequence[tuple[str, str]], body: bytes) -> bytes:
    """As it stands on the line. A body has its Content-Length, unless a line frames it in another way."""
    framed = any(name.lower() in ("content-length", "transfer-encoding") for name, _ in lines)
    framing = [("Content-Length", str(len(body)))] if body and not framed else []
    head = "".join(f"{name}: {value}\r\n" for name, value in (*lines, *framing))
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("utf-8", "surrogateescape") + body


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _rename_upload(database: Path | str, begun: str, upload_id: str) -> None:
    """Before anything has come to it, which would be bound to its name. A URL is PostgreSQL's."""
    if isinstance(database, str):
        with psycopg.connect(database) as session:
            session.execute("UPDATE uploads SET upload_id = %s WHERE upload_id = %s", (upload_id, begun))
        return
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE uploads SET upload_id = ? WHERE upload_id = ?", (upload_id, begun))


def _quoted(text: str) -> str:
    return quote_plus(text.encode("utf-8", "surrogatepass"))


def _dump(database: Path) -> Mapping[str, Sequence[Any]]:
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            name: sorted(connection.execute(f'SELECT * FROM "{name}"'), key=repr)  # noqa: S608  # its own tables
            for name in names
            if name not in _KEPT_FOR_REPEATS
        }
