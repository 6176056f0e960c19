"""The AWS door on a free port of loopback, over a metadata service that lives in a dict.

`FakeMetadata` keeps repositories by name and answers the operations of the door's table as the real one does, as far
as a door can tell; what has a say in a decision is there to be set. `fail_with` makes the next calls fail.
`AwsHandler.send` sends exactly the lines it is given.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import boto3
from aiohttp import web
from aiohttp.test_utils import RawTestServer
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from proxy.auth.access import Access
from proxy.auth.callers import Callers
from proxy.auth.envelope import SmallSealer
from proxy.auth.failed_logins import FailedLogins
from proxy.auth.layer_links import LayerLinks
from proxy.auth.secrets import seal_secret
from proxy.auth.sessions import Sessions
from proxy.auth.tokens import Tokens
from proxy.blob.local_keys import LocalKeys
from proxy.blob.master_file import MasterKeys, new_key
from proxy.ecr import routes
from proxy.ecr.authorization import Endpoints
from proxy.ecr.iam import Iam
from proxy.ecr.layers import LayerOperations
from proxy.ecr.query import QueryHandlers
from proxy.ecr.signed_request import Signatures
from proxy.ecr.sts import Sts
from proxy.ecr.sts.issuers import Issuers
from proxy.http.unproven_budget import UnprovenBytes
from proxy.metadata.contract import Metadata
from proxy.model.errors import Code, Failure, repository_not_found
from proxy.model.hosts import Hosts
from proxy.model.identity import (
    AccessKey,
    AttachedPolicy,
    BoundPolicy,
    Principal,
    RegistryAccess,
    RepositoryAccess,
)
from proxy.model.names import Digest, repository_arn
from proxy.model.records import Upload
from proxy.registry.uploads import Uploads
from support.identities import ADMINISTRATORS
from support.recording_trail import RecordingTrail

ACCOUNT = "123456789012"
REGION = "us-east-1"
ADMIN = Principal("AIDAADMIN", ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/admin", "admin", policies=ADMINISTRATORS)
BOB = Principal("AIDABOB", ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/bob", "bob")
ADMIN_KEY = ("AKIAADMINADMINADMIN1", "admin/secret+key/that+must/never+be+seen")
OTHER_ACCOUNT = "210987654321"
EVE = Principal(
    "AIDAEVE", OTHER_ACCOUNT, f"arn:aws:iam::{OTHER_ACCOUNT}:user/eve", "eve", policies=ADMINISTRATORS
)  # an administrator too, elsewhere
EVE_KEY = ("AKIAEVEEVEEVEEVEEVE1", "eve/secret+key/that+must/never+be+seen")
BOB_KEY = ("AKIABOBBOBBOBBOBBOB1", "bob/secret+key/that+must/never+be+seen")
TARGET = "AmazonEC2ContainerRegistry_V20150921."
JSON_TYPE = "application/x-amz-json-1.1"

FORM = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
Lines = list[tuple[str, str]]

_session = boto3.session.Session()  # it keeps the API models, which take 0.1 s to read


class FakeMetadata:
    """Rows in a dict. `calls` lists every operation that reached it, `accounts` whose registry each was of."""

    def __init__(self, secrets: SmallSealer) -> None:
        self.keys = {
            key_id: AccessKey(key_id, seal_secret(secrets, key_id, secret), principal)
            for (key_id, secret), principal in ((ADMIN_KEY, ADMIN), (BOB_KEY, BOB), (EVE_KEY, EVE))
        }
        self.repositories: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, Mapping[str, Any]]] = []
        self.accounts: list[str] = []
        self.looked_up: list[str] = []
        self.fail_with: Failure | None = None
        self.repository_policies: dict[tuple[str, str], BoundPolicy] = {}
        self.registries = {account: RegistryAccess(account, exists=True) for account in (ACCOUNT, OTHER_ACCOUNT)}

    async def principal(self, principal_id: str) -> Principal | None:
        return {key.principal.principal_id: key.principal for key in self.keys.values()}.get(principal_id)

    async def policy_documents(self, account: str, arns: Sequence[str]) -> Sequence[AttachedPolicy]:
        return ()

    async def repository_access(self, account: str, repository: str) -> RepositoryAccess:
        policy = self.repository_policies.get((account, repository))
        return RepositoryAccess(account, repository, exists=repository in self.repositories, policy=policy)

    async def repositories_access(self, account: str, names: Sequence[str]) -> Sequence[RepositoryAccess]:
        return [await self.repository_access(account, name) for name in names]

    async def registry_access(self, account: str) -> RegistryAccess:
        return self.registries.get(account, RegistryAccess(account, exists=False))

    async def bind_repository_policy(self, account: str, text: str) -> BoundPolicy:
        return BoundPolicy(text)

    async def access_key(self, access_key_id: str) -> AccessKey | None:
        self.looked_up.append(access_key_id)
        if self.fail_with is not None:
            raise self.fail_with
        return self.keys.get(access_key_id)

    async def note_role_use(self, principal_id: str, at: float, region: str) -> None:
        """Nobody asks for it here."""

    async def call(self, account: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        self.calls.append((operation, parameters))
        self.accounts.append(account)
        name = parameters.get("repositoryName", "")
        if operation == "CreateRepository":
            if name in self.repositories:
                raise Failure(Code.REPOSITORY_ALREADY_EXISTS, f"The repository with name '{name}' already exists")
            self.repositories[name] = _row(account, name)
            return {"repository": self.repositories[name]}
        if operation == "DescribeRepositories":
            names = parameters.get("repositoryNames") or sorted(self.repositories)
            return {"repositories": [self._found(account, each) for each in names]}
        row = self._found(account, name)
        if operation == "GetDownloadUrlForLayer":
            return {"layerDigest": parameters["layerDigest"]}
        if operation == "DeleteRepository":
            return {"repository": self.repositories.pop(name)}
        if operation == "BatchGetImage":
            return {"images": [], "failures": [{"failureCode": "ImageNotFound", "imageId": parameters["imageIds"][0]}]}
        return {{"ListImages": "imageIds", "DescribeImages": "imageDetails"}.get(operation, row["repositoryName"]): []}

    def _found(self, account: str, name: str) -> dict[str, Any]:
        if name not in self.repositories:
            raise repository_not_found(name, account)
        return self.repositories[name]


class FakeUploads:
    """Sessions that no repository has: whose they would be is told to `FakeMetadata.accounts`."""

    def __init__(self, metadata: FakeMetadata) -> None:
        self._metadata = metadata

    async def begin_parts(self, account: str, repository: str, *, opened_by: str = "") -> tuple[str, int]:
        raise self._not_found(account, repository)

    async def status(self, account: str, repository: str, upload_id: str) -> Upload:
        raise self._not_found(account, repository)

    async def add_part(self, account: str, repository: str, upload_id: str, **part: Any) -> Upload:
        raise self._not_found(account, repository)

    async def complete(self, account: str, repository: str, upload_id: str, digest: Digest) -> bool:
        raise self._not_found(account, repository)

    def _not_found(self, account: str, repository: str) -> Failure:
        self._metadata.accounts.append(account)
        return repository_not_found(repository, account)


def _row(account: str, name: str) -> dict[str, Any]:
    return {
        "repositoryName": name,
        "registryId": account,
        "repositoryArn": repository_arn(REGION, account, name),
        "createdAt": 1_800_000_000.25,
    }


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer off the wire; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def error(self) -> tuple[str, str]:
        """(name, message) of a JSON error, which has just these two members."""
        document = json.loads(self.body)
        assert set(document) == {"__type", "message"}
        return document["__type"], document["message"]


class AwsHandler:
    """A door that listens. `clock_shift` seconds are added to the door's clock, not to the clients'."""

    def __init__(
        self,
        url: str = "",
        suffix: str = "",
        access: Access | None = None,
        unproven: UnprovenBytes | None = None,
        logins: FailedLogins | None = None,
    ) -> None:
        keys = [("master-1", bytes(range(32)))]
        self.secrets = SmallSealer(keys, "access-key-secret")
        self.sessions = Sessions(SmallSealer(keys, "session-credentials"))
        self.tokens = Tokens(SmallSealer(keys, "authorization-token"))
        self.metadata = FakeMetadata(self.secrets)
        self.clock_shift = 0.0
        metadata = cast(Metadata, self.metadata)
        access = access or Access(self.metadata)
        issuers = Issuers([], tls=None, clock=time.monotonic)
        local = LocalKeys(MasterKeys(Path("nowhere"), (new_key(),)))
        self.trail = RecordingTrail()
        endpoints = Endpoints(Hosts(ACCOUNT, REGION, suffix), url)
        handler = routes.handler(
            trail=self.trail,
            metadata=metadata,
            access=access,
            signatures=Signatures(
                self.metadata,
                self.secrets,
                self.sessions,
                region=REGION,
                clock=self.clock,
                callers=Callers(self.metadata),
                unproven=unproven,
                logins=logins,
            ),
            keys=local,
            tokens=self.tokens,
            endpoints=endpoints,
            query_handlers=QueryHandlers(
                Sts(metadata, self.sessions, access, issuers, self.clock), Iam(metadata, access, self.secrets)
            ),
            layers=LayerOperations(
                cast(Uploads, FakeUploads(self.metadata)),
                metadata,
                LayerLinks(SmallSealer(keys, "layer-link"), REGION),
                endpoints,
                Path(tempfile.gettempdir()),
            ),
            clock=self.clock,
        )
        self._server = RawTestServer(cast(Callable[[web.BaseRequest], Any], handler), host="127.0.0.1")

    def clock(self) -> float:
        return time.time() + self.clock_shift

    async def begin(self) -> None:
        await self._server.start_server(auto_decompress=False)

    async def finish(self) -> None:
        await self._server.close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def client(self, service: str = "ecr", key: tuple[str, str] = ADMIN_KEY, region: str = REGION, **more: Any) -> Any:
        """A boto3 client that asks once. Its calls block: run them in a thread."""
        return _session.client(
            service,
            endpoint_url=self.url,
            region_name=region,
            aws_access_key_id=key[0],
            aws_secret_access_key=key[1],
            config=Config(retries={"total_max_attempts": 1}, parameter_validation=False),
            **more,
        )

    def signed(
        self,
        operation: str = "DescribeRepositories",
        body: bytes = b"{}",
        *,
        key: tuple[str, str] = ADMIN_KEY,
        region: str = REGION,
        service: str = "ecr",
        headers: Mapping[str, str] | None = None,
        host: str = "",
    ) -> Lines:
        """The header lines of a request that botocore has signed, Host first, without Content-Length."""
        plain = {"X-Amz-Target": TARGET + operation, "Content-Type": JSON_TYPE} if headers is None else headers
        host = host or self.address
        request = AWSRequest(method="POST", url=f"http://{host}/", data=body, headers=plain)
        SigV4Auth(Credentials(*key), service, region).add_auth(request)
        return [("Host", host), *((name, str(value)) for name, value in request.headers.items())]

    async def send(
        self, lines: Sequence[tuple[str, str]], body: bytes = b"{}", *, target: str = "/", client: str = "127.0.0.1"
    ) -> Answer:
        """Send these header lines and this body from `client`'s address, and read until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port, local_addr=(client, 0))
        try:
            chunked = any(name == "Transfer-Encoding" for name, _ in lines)
            framing = [] if chunked else [("Content-Length", str(len(body)))]
            head = "".join(f"{name}: {value}\r\n" for name, value in (*lines, *framing, ("Connection", "close")))
            writer.write(f"POST {target} HTTP/1.1\r\n{head}\r\n".encode("utf-8", "surrogateescape") + body)
            raw = await asyncio.wait_for(reader.read(), 20)
        finally:
            writer.close()
        head_bytes, _, content = raw.partition(b"\r\n\r\n")
        status, *fields = head_bytes.decode().split("\r\n")
        found = dict(line.split(": ", 1) for line in fields)
        return Answer(int(status.split()[1]), {name.lower(): value for name, value in found.items()}, content)

    async def answer_before_body(self, lines: Sequence[tuple[str, str]], length: int = 1000) -> bytes:
        """Announce a body of `length`, send none of it, and read what is answered all the same."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        try:
            head = "".join(f"{name}: {value}\r\n" for name, value in (*lines, ("Content-Length", str(length))))
            writer.write(f"POST / HTTP/1.1\r\n{head}\r\n".encode())
            header = await reader.readuntil(b"\r\n\r\n")
            answered = re.search(rb"(?i)content-length: (\d+)", header)
            assert answered is not None
            return header + await reader.readexactly(int(answered[1]))
        finally:
            writer.close()
