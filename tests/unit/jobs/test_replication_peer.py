"""The sender: what it asks a peer, which is a whole registry, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from proxy.jobs.replication import Refused, ReplicationSource
from proxy.jobs.replication_peer import PeerTarget, _judge
from proxy.model.errors import Code, Failure
from proxy.model.replica_headers import FAILURE
from proxy.model.replication import FailureCode, RemovedTag, ReplicaManifest, ReplicaTag, ReplicationDestination
from proxy.upstream.errors import UpstreamFailed, UpstreamReason
from proxy.upstream.peer import PeerAnswer, PeerClient, ReplicationPeer, _Pace
from support.fault_proxy import FaultProxy, fault_proxy
from support.oci_requests import OCI_IMAGE, digest_of, image
from support.whole_registry import ACCOUNT, REGION, WholeRegistry, whole_registry

AWAY = "eu-west-1"
SENDER = f"arn:aws:iam::{ACCOUNT}:user/sender"
SOURCE = ReplicationSource(ACCOUNT, "team/app", f"{AWAY}/{ACCOUNT}", ReplicationDestination(REGION, ACCOUNT))
RIGHTS = ("ecr:GetAuthorizationToken", "ecr:ReplicateImage", "ecr:CreateRepository")
LAYER = os.urandom(300_000)


class LendingBlobs:
    """Blobs by digest, read into one buffer that each run uses again; `fails` after the first."""

    def __init__(self, *contents: bytes) -> None:
        self.contents = {digest_of(each): each for each in contents}
        self.fails: Failure | None = None

    async def find(self, account: str, repository: str, digest: str) -> str:
        return digest

    @contextlib.asynccontextmanager
    async def open(self, digest: str) -> AsyncIterator[Any]:
        yield SimpleNamespace(runs=lambda start, stop: self.runs(self.contents[digest], start, stop))

    async def runs(self, content: bytes, start: int, stop: int) -> AsyncGenerator[memoryview, None]:
        buffer = bytearray(65536)
        for at in range(start, stop, len(buffer)):
            piece = content[at : min(at + len(buffer), stop)]
            buffer[: len(piece)] = piece
            yield memoryview(buffer)[: len(piece)]
            buffer[:] = bytes(len(buffer))
            if self.fails is not None:
                raise self.fails


class Rows:
    """What is to be sent, by digest."""

    def __init__(self, *manifests: bytes) -> None:
        self.stored = {digest_of(each): each for each in manifests}
        self.tags: tuple[ReplicaTag, ...] = ()

    async def manifest(self, account: str, repository: str, digest: str) -> Any:
        return SimpleNamespace(content=self.stored[digest], media_type=OCI_IMAGE)

    async def replication_plan(self, account: str, repository: str, digest: str, *, destination: Any) -> Any:
        return SimpleNamespace(manifests=[SimpleNamespace(tags=self.tags)])


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[WholeRegistry]:
    async with whole_registry(tmp_path, senders=[SENDER]) as found:
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": RIGHTS, "Resource": "*"}]}
        await found.metadata.iam(ACCOUNT, "CreateUser", {"UserName": "sender"})
        given = {"UserName": "sender", "PolicyName": "own", "PolicyDocument": json.dumps(policy)}
        await found.metadata.iam(ACCOUNT, "PutUserPolicy", given)
        yield found


@pytest.fixture
async def line(registry: WholeRegistry) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(int(registry.address.rpartition(":")[2])) as found:
        yield found


@pytest.fixture
async def peer(registry: WholeRegistry, line: FaultProxy) -> AsyncIterator[PeerClient]:
    key = await registry.give_key(ACCOUNT, "sender")
    client = PeerClient(ReplicationPeer(REGION, URL(line.url), *key), clock=time.monotonic)
    yield client
    await client.close()


MANIFEST = image([LAYER])
SENT = ReplicaManifest(digest_of(MANIFEST), OCI_IMAGE, ((digest_of(b"{}"), 2), (digest_of(LAYER), len(LAYER))))


def target(peer: PeerClient, blobs: Any, *manifests: bytes) -> PeerTarget:
    rows: Any = Rows(*(manifests or (MANIFEST,)))
    return PeerTarget(rows, blobs, peer, account_there=lambda account: account, region=AWAY)


def tagged(manifest: ReplicaManifest, *tags: str) -> ReplicaManifest:
    return ReplicaManifest(
        manifest.digest, manifest.media_type, manifest.blobs, tuple(ReplicaTag(tag, 1.0) for tag in tags)
    )


async def send(found: PeerTarget, manifest: ReplicaManifest) -> None:
    """Its tags are those that it has as its layers begin to go."""
    rows: Any = found._rows
    rows.tags = manifest.tags
    await found.put(SOURCE, manifest)


async def pulled(registry: WholeRegistry, digest: str) -> bytes:
    async with registry.client() as http, http.get(f"/v2/team/app/blobs/{digest}") as answer:
        return await answer.read()


async def test_bytes_arrive_right_though_the_reader_uses_its_buffer_again(
    registry: WholeRegistry, peer: PeerClient
) -> None:
    await send(target(peer, LendingBlobs(b"{}", LAYER)), tagged(SENT, "v1"))
    assert await pulled(registry, digest_of(LAYER)) == LAYER
    assert (await registry.metadata.manifest(ACCOUNT, "team/app", "v1")).content == MANIFEST


async def test_what_is_there_is_not_sent_again(registry: WholeRegistry, peer: PeerClient, line: FaultProxy) -> None:
    found = target(peer, LendingBlobs(b"{}", LAYER))
    await found.put(SOURCE, SENT)
    line.requests.clear()
    await send(found, tagged(SENT, "v1"))
    assert [each.partition(" ")[0] for each in line.requests] == ["HEAD", "HEAD", "PUT"]


async def test_a_tag_that_is_removed_while_the_layers_go_is_not_sent(registry: WholeRegistry, peer: PeerClient) -> None:
    await target(peer, LendingBlobs(b"{}", LAYER)).put(SOURCE, tagged(SENT, "v1"))
    assert (await registry.metadata.tags(ACCOUNT, "team/app", last="", limit=10)).names == ()
    assert (await registry.metadata.manifest(ACCOUNT, "team/app", SENT.digest)).content == MANIFEST


async def test_images_that_share_a_layer_send_it_once(
    registry: WholeRegistry, peer: PeerClient, line: FaultProxy
) -> None:
    await registry.metadata.call(ACCOUNT, "PutAccountSetting", {"name": "BLOB_MOUNTING", "value": "DISABLED"})
    other = image([LAYER], annotations={"other": "image"})
    second = ReplicaManifest(digest_of(other), OCI_IMAGE, SENT.blobs)
    found = target(peer, LendingBlobs(b"{}", LAYER), MANIFEST, other)
    await asyncio.gather(found.put(SOURCE, SENT), found.put(SOURCE, second))
    assert sum(each.startswith("PATCH") for each in line.requests) == 2  # of the layer and of the configuration


async def test_an_empty_layer_arrives(registry: WholeRegistry, peer: PeerClient) -> None:
    manifest = image([b""])
    sent = ReplicaManifest(digest_of(manifest), OCI_IMAGE, ((digest_of(b"{}"), 2), (digest_of(b""), 0)))
    await target(peer, LendingBlobs(b"{}", b""), manifest).put(SOURCE, sent)
    assert await pulled(registry, digest_of(b"")) == b""


async def test_a_layer_that_is_corrupt_here_fails_as_that(peer: PeerClient) -> None:
    blobs = LendingBlobs(b"{}", LAYER)
    blobs.fails = Failure(Code.BLOB_CORRUPT, "a frame does not authenticate")
    with pytest.raises(Failure) as failed:
        await target(peer, blobs).put(SOURCE, SENT)
    assert failed.value is blobs.fails


async def test_a_password_that_no_longer_counts_is_fetched_anew(registry: WholeRegistry, peer: PeerClient) -> None:
    found = target(peer, LendingBlobs(b"{}", LAYER))
    await found.put(SOURCE, SENT)
    assert peer._credentials._header
    peer._credentials._header = "Basic QVdTOm5vbmU="
    await send(found, tagged(SENT, "v1"))


async def test_a_key_that_does_not_count_is_a_denial(registry: WholeRegistry, line: FaultProxy) -> None:
    client = PeerClient(ReplicationPeer(REGION, URL(line.url), "AKIANOBODY", "x"), clock=time.monotonic)
    with pytest.raises(Refused) as refused:
        await target(client, LendingBlobs(b"{}", LAYER)).put(SOURCE, SENT)
    await client.close()
    assert refused.value.code is FailureCode.ACCESS_DENIED


async def test_a_peer_that_does_not_answer_is_no_refusal(
    peer: PeerClient, line: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.jobs.replication_peer.PAUSES", (0.0, 0.0))
    line.mode = "refuse"
    with pytest.raises(UpstreamFailed) as failed:
        await target(peer, LendingBlobs(b"{}", LAYER)).put(SOURCE, SENT)
    assert failed.value.reason is UpstreamReason.UNAVAILABLE


async def test_deletions_of_many_tags_go_in_several_requests(
    registry: WholeRegistry, peer: PeerClient, line: FaultProxy
) -> None:
    found, names = target(peer, LendingBlobs(b"{}", LAYER)), [f"v{number}" for number in range(30)]
    await send(found, tagged(SENT, *names))
    page = await registry.metadata.tags(ACCOUNT, "team/app", last="", limit=100)
    assert sorted(page.names) == sorted(names)
    line.requests.clear()
    removed = [RemovedTag(name, 1.0, SOURCE.origin) for name in names]
    assert await found.remove(SOURCE, "", SOURCE.origin, removed[:25])
    assert len((await registry.metadata.tags(ACCOUNT, "team/app", last="", limit=100)).names) == 5
    assert await found.remove(SOURCE, SENT.digest, SOURCE.origin, removed)
    assert [each.partition(" ")[0] for each in line.requests] == ["DELETE"] * 4
    with pytest.raises(Failure):
        await registry.metadata.manifest(ACCOUNT, "team/app", SENT.digest)
    assert await found.remove(SOURCE, SENT.digest, SOURCE.origin, removed)  # gone already


def answered(status: int, code: str = "", **headers: str) -> PeerAnswer:
    return PeerAnswer(status, CIMultiDictProxy(CIMultiDict(headers)), code, URL("https://peer.example/"))


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (answered(403), FailureCode.ACCESS_DENIED),
        (answered(403, **{FAILURE: "LimitExceeded"}), FailureCode.LIMIT_EXCEEDED),
        (answered(404, **{FAILURE: "RepositoryNotFound"}), FailureCode.REPOSITORY_NOT_FOUND),
        (answered(403, **{FAILURE: "OfALaterRelease"}), FailureCode.ACCESS_DENIED),
        (answered(400, "MANIFEST_INVALID"), FailureCode.DESTINATION_REFUSED),
        (answered(413), FailureCode.DESTINATION_REFUSED),
    ],
)
def test_what_a_peer_refuses_has_a_code(answer: PeerAnswer, code: FailureCode) -> None:
    with pytest.raises(Refused) as refused:
        _judge(answer, 201)
    assert refused.value.code is code


@pytest.mark.parametrize("status", [200, 301, 401, 408, 409, 416, 500, 503, 507])
def test_what_says_nothing_of_the_image_is_tried_again(status: int) -> None:
    with pytest.raises(UpstreamFailed):
        _judge(answered(status), 201)


def test_a_peer_with_too_many_requests_says_when() -> None:
    with pytest.raises(Failure) as failed:
        _judge(answered(429, **{"Retry-After": "7"}), 201)
    assert (failed.value.code, failed.value.fields["seconds"]) == (Code.THROTTLING, 7.0)


def test_bytes_keep_to_their_rate_together() -> None:
    now = 0.0
    pace = _Pace(1000, lambda: now)
    assert [pace.wait(500), pace.wait(500), pace.wait(1000)] == [0.0, 0.5, 1.0]
    now = 10.0
    assert pace.wait(500) == 0.0
    assert _Pace(0, lambda: now).wait(10**9) == 0.0


async def test_requests_are_at_most_as_many_as_the_connections() -> None:
    running = most = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal running, most
        if request.path == "/":
            data = {"authorizationToken": "QVdTOng=", "expiresAt": time.time() + 100}
            return web.json_response({"authorizationData": [data]})
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server:
        made = ReplicationPeer(REGION, server.make_url("/").origin(), "AKIA", "x", connections=3)
        client = PeerClient(made, clock=time.monotonic)
        await asyncio.gather(*(client.ask("HEAD", f"/v2/{number}", {}) for number in range(20)))
        await client.close()
    assert 1 <= most <= 3
