"""Pushes and pulls against somebody else's registry: what is sent, what is checked, and how each wrong is named."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from proxy.http.selfsigned import make_self_signed
from proxy.http.tls import server_context
from proxy.rig import pulling
from proxy.rig.client import BODY_MOST, ERROR_MOST, Client
from proxy.rig.content import digest_of
from proxy.rig.plan import ImageShape, Target
from proxy.rig.pulling import Puller
from proxy.rig.pushing import Pusher, put_manifest
from proxy.rig.sizes import parse_sizes
from proxy.upstream.address import Reach, parse_address
from proxy.upstream.errors import RequestFailed
from support.other_registry import FarRegistry

SHAPE = ImageShape(seed=3, layers=3, sizes=parse_sizes("uniform:100KiB-600KiB"), shared=2, repositories=2)
BASIC = "Basic bWU6aHVudGVyMg=="  # me:hunter2


class At:
    """A client at a registry, and what it noted."""

    def __init__(self, client: Client, noted: list[str]) -> None:
        self.client = client
        self.noted = noted

    def pusher(self, *, chunked: bool = False) -> Pusher:
        return Pusher(self.client, SHAPE, parallel=2, chunked=chunked)

    def puller(self, *, verify: bool = True, ranges: int | None = None) -> Puller:
        return Puller(self.client, parallel=2, verify=verify, ranges=ranges)


@asynccontextmanager
async def at(far: FarRegistry, *, allowed: frozenset[str] = frozenset(), username: str = "me") -> AsyncIterator[At]:
    noted: list[str] = []
    async with (
        far.serving() as address,
        Client(
            Reach(parse_address(address), allowed),
            username=username,
            password="hunter2" if username else "",
            note=lambda name, seconds: noted.append(name),
        ) as client,
    ):
        yield At(client, noted)


async def failure(doing: Any) -> RequestFailed:
    with pytest.raises(RequestFailed) as raised:
        await doing
    return raised.value


# ---- push ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_push_sends_each_layer_once_and_then_the_manifest(chunked: bool) -> None:
    far = FarRegistry()
    async with at(far) as our:
        manifest, sent = await our.pusher(chunked=chunked).push(1)
    facts = json.loads(manifest)
    stored = far.blobs["rig/s3-r1"]
    for number, descriptor in enumerate(facts["layers"]):
        layer = SHAPE.layer(1, number)
        assert descriptor["digest"] == digest_of(layer.key, layer.size)
        assert descriptor["size"] == layer.size == len(stored[descriptor["digest"]])
    assert far.manifests["rig/s3-r1", "i1"][1] == manifest
    assert json.loads(stored[facts["config"]["digest"]])["rootfs"]["diff_ids"] == [d["digest"] for d in facts["layers"]]
    assert sent == sum(map(len, stored.values())) + len(manifest)
    assert {each.chunked for each in far.asked if each.method == "PATCH"} == {chunked}
    assert far.asked[-1].method == "PUT"
    assert our.noted.count("patch-upload") == 3
    assert our.noted.count("put-upload") == 4


async def test_a_shared_layer_is_asked_for_and_mounted_as_docker_does() -> None:
    far = FarRegistry()
    async with at(far) as our:
        pusher = our.pusher()
        await pusher.push(0)
        far.asked.clear()
        _, sent = await pusher.push(1)
        mounts = [path for path in far.paths("POST") if "mount=" in path]
        assert len(far.paths("HEAD")) == len(mounts) == 2
        assert len(far.paths("PATCH")) == 1
        assert sent < SHAPE.layer(1, 2).size + 5000
        far.asked.clear()
        await pusher.push(2)  # in the first repository again: there already
        assert len(far.paths("HEAD")) == 2
        assert not [path for path in far.paths("POST") if "mount=" in path]
        assert len(pusher._base) == 2  # and no other layer is remembered, however many are pushed


async def test_a_mount_that_becomes_an_upload_is_gone_on_with() -> None:
    far = FarRegistry(mounts=False)
    async with at(far) as our:
        pusher = our.pusher()
        await pusher.push(0)
        await pusher.push(1)
        assert await our.puller().pull(SHAPE.target(1)) > SHAPE.layer(1, 0).size
    assert len(far.paths("PATCH")) == 6


async def test_a_refused_upload_fails_by_status_and_code() -> None:
    async with at(FarRegistry(refuse=(403, "DENIED"))) as our:
        assert (await failure(our.pusher().push(0))).kind == "403 DENIED"


async def test_an_upload_that_goes_on_at_a_stranger_is_not_followed() -> None:
    far, stranger = FarRegistry(), FarRegistry()
    async with stranger.serving() as elsewhere:
        far.uploads_at = f"http://{elsewhere}"
        async with at(far) as our:
            failed = await failure(our.pusher().push(0))
    assert (failed.kind, stranger.asked) == ("refused-address", [])
    assert f"--allow-host {elsewhere}" in failed.said


async def test_a_stranger_that_is_allowed_gets_the_layers_and_no_credentials() -> None:
    far, stranger = FarRegistry(basic="me:hunter2"), FarRegistry()
    async with stranger.serving() as elsewhere:
        far.uploads_at = f"http://{elsewhere}"
        async with at(far, allowed=frozenset({elsewhere})) as our:
            assert (await failure(our.pusher().push(0))).kind == "500"  # it never opened that upload
    assert stranger.asked
    assert {each.authorization for each in stranger.asked} == {""}
    assert BASIC in {each.authorization for each in far.asked}


# ---- who asks ------------------------------------------------------------------------------------------------------
async def test_tokens_are_fetched_for_what_is_done() -> None:
    far = FarRegistry(tokens=True, basic="me:hunter2")
    async with at(far) as our:
        pusher = our.pusher()
        await pusher.push(0)
        await pusher.push(1)
        await our.puller().pull(SHAPE.target(0))
    first, second = "repository:rig/s3-r0:pull", "repository:rig/s3-r1:pull"
    assert sorted(far.issued) == sorted([f"{first},push", f"{second},push", f"{second},push {first}", first])
    assert our.noted.count("token") == 4


@pytest.mark.parametrize("tokens", [False, True])
async def test_a_registry_that_was_greeted_answers_no_request_with_401(tokens: bool) -> None:
    far = FarRegistry(tokens=tokens, basic="me:hunter2")
    async with at(far) as our:
        await our.client.greet()
        await our.pusher().push(0)
    assert far.asked[0].path == "/v2/"
    assert [each.path for each in far.asked if not each.authorization] == ["/v2/"]


async def test_greeting_nobody_is_no_failure() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        reach = Reach(parse_address(f"127.0.0.1:{taken.getsockname()[1]}"))
        async with Client(reach, note=lambda name, seconds: None) as client:
            await client.greet()


async def test_a_token_that_the_registry_takes_no_more_is_fetched_anew() -> None:
    far = FarRegistry(tokens=True)
    async with at(far, username="") as our:
        await our.pusher().push(0)
        far.issued[:] = []  # none that was issued is known any more
        await our.puller().pull(SHAPE.target(0))
        assert far.issued == ["repository:rig/s3-r0:pull"]


async def test_a_wrong_password_is_a_failure_and_not_asked_again_and_again() -> None:
    far = FarRegistry(basic="me:other")
    async with at(far) as our:
        assert (await failure(our.puller().pull(SHAPE.target(0)))).kind == "401 UNAUTHORIZED"
    assert [each.authorization for each in far.asked] == ["", BASIC]


async def test_a_realm_that_refuses_is_a_failure_of_its_own() -> None:
    async with at(FarRegistry(tokens=True, basic="me:other")) as our:
        assert (await failure(our.puller().pull(SHAPE.target(0)))).kind == "token 401"


# ---- pull ----------------------------------------------------------------------------------------------------------
@pytest.fixture
async def pushed() -> FarRegistry:
    """A registry that holds images 0 and 1."""
    far = FarRegistry()
    async with at(far) as our:
        pusher = our.pusher()
        for image in range(2):
            await pusher.push(image)
    far.asked.clear()
    return far


@pytest.mark.parametrize("verify", [False, True])
async def test_a_pull_takes_manifest_configuration_and_layers_to_the_last_byte(
    pushed: FarRegistry, verify: bool
) -> None:
    async with at(pushed) as our:
        came = await our.puller(verify=verify).pull(SHAPE.target(0))
    stored = pushed.blobs["rig/s3-r0"]
    assert came == sum(map(len, stored.values())) + len(pushed.manifests["rig/s3-r0", "i0"][1])
    assert our.noted == ["get-manifest", *["get-blob"] * 4]


async def test_layers_that_lie_elsewhere_are_fetched_there_without_credentials(pushed: FarRegistry) -> None:
    pushed.basic = "me:hunter2"
    bucket = FarRegistry(blobs=pushed.blobs)
    async with bucket.serving() as elsewhere:
        pushed.layers_at = f"http://{elsewhere}/elsewhere"
        async with at(pushed) as our:
            await our.puller().pull(SHAPE.target(0))
            await our.puller(ranges=1000).ranged(SHAPE.target(0), 5)
    assert len(bucket.asked) == 7
    assert {each.authorization for each in bucket.asked} == {""}
    assert sum(bool(each.range) for each in bucket.asked) == 3


async def test_a_redirect_to_a_plain_stranger_is_not_followed(pushed: FarRegistry) -> None:
    pushed.layers_at = "http://bucket.example"
    async with at(pushed) as our:
        assert (await failure(our.puller().pull(SHAPE.target(0)))).kind == "refused-address"


async def test_redirects_in_a_circle_end(pushed: FarRegistry) -> None:
    async def around(request: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": request.path})

    target = SHAPE.target(0)
    pushed.answers = {f"GET /v2/{target.repository}/blobs/{name}": around for name in pushed.blobs[target.repository]}
    async with at(pushed) as our:
        assert (await failure(our.puller().pull(target))).kind == "redirects"


@pytest.mark.parametrize(
    ("spoil", "verify", "kind"),
    [
        (lambda body: body[:-1], False, "wrong-length"),
        (lambda body: body + b"x", False, "wrong-length"),
        (lambda body: body[:-1] + bytes([body[-1] ^ 1]), True, "wrong-digest"),
    ],
    ids=["short", "long", "changed"],
)
async def test_a_layer_that_is_not_what_the_manifest_says_fails(
    pushed: FarRegistry, spoil: Callable[[bytes], bytes], verify: bool, kind: str
) -> None:
    pushed.spoil = spoil
    async with at(pushed) as our:
        assert (await failure(our.puller(verify=verify).pull(SHAPE.target(0)))).kind == kind


async def test_a_changed_layer_is_not_noticed_without_verify(pushed: FarRegistry) -> None:
    """Which is what --verify is for."""
    pushed.spoil = lambda body: body[:-1] + bytes([body[-1] ^ 1])
    async with at(pushed) as our:
        assert await our.puller(verify=False).pull(SHAPE.target(0))


async def test_ranges_lie_within_each_layer_and_are_those_of_the_draw(pushed: FarRegistry) -> None:
    async with at(pushed) as our:
        puller = our.puller(ranges=64 * 1024)
        came = [await puller.ranged(SHAPE.target(0), draw) for draw in (1, 1, 2)]
    asked = [each for each in pushed.asked if each.range]
    places = [(each.path, each.range) for each in asked]
    assert len(places) == 9
    assert sorted(places[:3]) == sorted(places[3:6]) != sorted(places[6:])
    for each in asked:
        first, last = map(int, re.findall(r"\d+", each.range))
        size = len(pushed.blobs["rig/s3-r0"][each.path.rpartition("/")[2]])
        assert 0 <= first <= last < size
        assert last - first + 1 == 64 * 1024
    assert came[0] == 3 * 64 * 1024 + len(pushed.manifests["rig/s3-r0", "i0"][1])


async def test_a_range_is_no_longer_than_its_layer(pushed: FarRegistry) -> None:
    async with at(pushed) as our:
        came = await our.puller(ranges=1 << 30).ranged(SHAPE.target(0), 1)
    assert came > sum(SHAPE.layer(0, number).size for number in range(3))


@pytest.mark.parametrize("spoil", [lambda body: body[:-1], lambda body: body + b"x"], ids=["short", "long"])
async def test_a_range_that_is_not_as_long_as_it_was_asked_for_fails(
    pushed: FarRegistry, spoil: Callable[[bytes], bytes]
) -> None:
    pushed.spoil = spoil
    async with at(pushed) as our:
        assert (await failure(our.puller(ranges=1000).ranged(SHAPE.target(0), 1))).kind == "wrong-length"


async def test_a_registry_that_ignores_ranges_is_found_out(pushed: FarRegistry) -> None:
    pushed.no_ranges = True
    async with at(pushed) as our:
        assert (await failure(our.puller(ranges=1000).ranged(SHAPE.target(0), 1))).kind == "wrong-range"


async def test_of_an_index_the_first_image_is_pulled(pushed: FarRegistry) -> None:
    kind, image = pushed.manifests["rig/s3-r0", "i0"]
    digest = f"sha256:{hashlib.sha256(image).hexdigest()}"
    index = json.dumps({"manifests": [{"mediaType": kind, "digest": digest, "size": len(image)}]}).encode()
    pushed.manifests["rig/s3-r0", "both"] = ("application/vnd.oci.image.index.v1+json", index)
    async with at(pushed) as our:
        single = await our.puller().pull(SHAPE.target(0))
        assert await our.puller().pull(Target("rig/s3-r0", "both")) == single + len(index)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"no", "bad-json"),
        (b"[]", "bad-json"),
        (b"[" * 100_000, "bad-json"),
        (b"{}", "bad-manifest"),
        (b'{"manifests": []}', "bad-manifest"),
        (b'{"config": {"digest": "sha256:1", "size": 1}, "layers": []}', "bad-manifest"),
        (b'{"config": {"digest": "sha256:%b", "size": -1}, "layers": []}' % (b"0" * 64), "bad-manifest"),
        (b'{"config": {"digest": "sha256:%b", "size": true}, "layers": []}' % (b"0" * 64), "bad-manifest"),
        (b'{"config": {"digest": "../../x", "size": 1}, "layers": []}', "bad-manifest"),
        (json.dumps({"layers": [{}] * 1001}).encode(), "bad-manifest"),
        (b" " * (BODY_MOST + 1), "too-large"),
    ],
    ids=lambda value: value[:20].decode() if isinstance(value, bytes) else value,
)
async def test_a_manifest_that_is_none_fails_by_what_is_wrong(body: bytes, kind: str) -> None:
    far = FarRegistry(manifests={("team/app", "v1"): ("application/json", body)})
    async with at(far) as our:
        assert (await failure(our.puller().pull(Target("team/app", "v1")))).kind == kind


async def test_a_manifest_that_is_not_its_digest_is_found_out(pushed: FarRegistry) -> None:
    async def other(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"{}", headers={"Docker-Content-Digest": "sha256:" + "0" * 64})

    pushed.answers = {"GET /v2/rig/s3-r0/manifests/i0": other}
    async with at(pushed) as our:
        assert (await failure(our.puller().pull(SHAPE.target(0)))).kind == "wrong-digest"


# ---- errors, lists, lines ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"errors": [{"code": "NAME_UNKNOWN", "message": "m"}]}', "404 NAME_UNKNOWN"),
        (b'{"errors": [{"code": "with secret=1"}]}', "404"),
        (b'{"errors": [{"code": 5}]}', "404"),
        (b'{"errors": []}', "404"),
        (b"<html>", "404"),
        (b"", "404"),
        (b"[" * ERROR_MOST, "404"),
        (b'{"errors": [{"code": "X"}]}' + b" " * (ERROR_MOST + 1), "404"),
    ],
    ids=range(8),
)
async def test_an_error_is_its_status_and_the_code_if_it_is_one(body: bytes, kind: str) -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.Response(status=404, body=body)

    async with at(FarRegistry(answers={"GET /v2/team/app/manifests/v1": refuse})) as our:
        assert (await failure(our.puller().pull(Target("team/app", "v1")))).kind == kind


async def test_a_body_that_ends_early_is_cut_short(pushed: FarRegistry) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": "1000"})
        await answer.prepare(request)
        await answer.write(b"some")
        assert request.transport is not None
        request.transport.close()
        return answer

    target = SHAPE.target(0)
    pushed.answers = {f"GET /v2/{target.repository}/blobs/{name}": cut for name in pushed.blobs[target.repository]}
    async with at(pushed) as our:
        assert (await failure(our.puller().pull(target))).kind == "cut-short"


async def test_a_line_that_ends_before_an_answer_is_a_connection_reset() -> None:
    async def away(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with at(FarRegistry(answers={"PUT /v2/a/manifests/b": away})) as our:
        assert (await failure(put_manifest(our.client, "a", "b", b"{}"))).kind == "connection-reset"


async def test_nobody_there_is_a_connection_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        reach = Reach(parse_address(f"127.0.0.1:{taken.getsockname()[1]}"))
        async with Client(reach, note=lambda name, seconds: None) as client:
            failed = await failure(Puller(client, parallel=1, verify=False, ranges=None).head(Target("a", "b")))
    assert failed.kind == "connection-refused"


async def test_tls_where_there_is_none_is_named() -> None:
    far = FarRegistry()
    async with far.serving() as address:
        reach = Reach(parse_address(f"https://{address}"))
        async with Client(reach, note=lambda name, seconds: None) as client:
            failed = await failure(Puller(client, parallel=1, verify=False, ranges=None).head(Target("a", "b")))
    assert (failed.kind, far.asked) == ("tls", [])


@pytest.fixture
def certified(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a server of 127.0.0.1 speaks, and what trusts it."""
    ca, certificate, key = make_self_signed(tmp_path, "127.0.0.1")
    return server_context(certificate, key), ssl.create_default_context(cafile=ca)


async def test_tls_is_spoken_with_whom_the_authority_vouches_for_and_nobody_else(
    certified: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    spoken, trusting = certified
    far = FarRegistry(manifests={("a", "b"): ("x/y", b"{}")})
    async with far.serving(spoken) as address:
        reach = Reach(parse_address(f"https://{address}"))
        for trust, fine in ((trusting, True), (None, False)):
            async with Client(reach, trust=trust, note=lambda name, seconds: None) as client:
                asking = Puller(client, parallel=1, verify=False, ranges=None).head(Target("a", "b"))
                if fine:
                    await asking
                else:
                    assert (await failure(asking)).kind == "tls"
    assert len(far.asked) == 1


async def test_a_listing_is_followed_over_its_pages() -> None:
    far = FarRegistry(manifests={("a", f"t{number:03}"): ("x/y", b"{}") for number in range(25)}, page=10)
    async with at(far) as our:
        found, read = await pulling.tags(our.client, "a", most=100)
        assert found == [f"t{number:03}" for number in range(25)]
        assert read > 25 * 6
        assert (await pulling.tags(our.client, "a", most=5))[0] == found[:5]
        assert (await pulling.tags(our.client, "a"))[0] == []  # none is kept


async def test_a_listing_without_end_ends() -> None:
    async def forever(request: web.Request) -> web.StreamResponse:
        return web.json_response({"tags": ["a"]}, headers={"Link": f'<{request.path}?last=a>; rel="next"'})

    far = FarRegistry(answers={"GET /v2/a/tags/list": forever})
    async with at(far) as our:
        assert (await failure(pulling.tags(our.client, "a"))).kind == "endless-listing"
    assert len(far.asked) == pulling.PAGES


async def test_a_listing_that_goes_on_at_a_stranger_is_not_followed() -> None:
    async def away(request: web.Request) -> web.StreamResponse:
        return web.json_response({"tags": ["a"]}, headers={"Link": '<https://other.example/v2/>; rel="next"'})

    async with at(FarRegistry(answers={"GET /v2/a/tags/list": away})) as our:
        assert (await failure(pulling.tags(our.client, "a"))).kind == "refused-address"
