"""Asking an upstream: the rules of a good and distrustful client, over HTTP against a registry that misbehaves."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from yarl import URL

from proxy.storage.s3.circuit_breaker import FAILURES, SUFFERED
from proxy.upstream.client import HOPS, Upstream, UpstreamClient, UpstreamLogin
from proxy.upstream.errors import UpstreamFailed, UpstreamReason
from proxy.upstream.guarded_connector import AddressRefused, is_public, socket_factory
from proxy.upstream.limits import retry_after
from proxy.upstream.realms import UpstreamReach, is_same_site
from support.other_registry import FarRegistry

PULLER = UpstreamLogin("me", "hunter2")


@asynccontextmanager
async def asking(
    far: FarRegistry,
    credential: UpstreamLogin | None = None,
    *,
    clock: Callable[[], float] = time.monotonic,
    listed: bool = True,
    more: tuple[str, ...] = (),
    connections: int = 16,
    per_second: float = 0.0,
) -> AsyncIterator[UpstreamClient]:
    async with far.serving() as address:
        base = URL(f"http://{address}")
        origins = frozenset(URL(each) for each in more) | ({base} if listed else frozenset())
        upstream = Upstream(base, origins, connections, per_second)
        async with UpstreamClient(upstream, credential, clock=clock, note=lambda *_: None) as client:
            yield client


async def failure(asked: object) -> UpstreamFailed:
    with pytest.raises(UpstreamFailed) as raised:
        await asked  # type: ignore[misc]  # any awaitable
    return raised.value


def body_of(client: UpstreamClient, digest: str, start: int = 0) -> asyncio.Task[bytes]:
    async def read() -> bytes:
        async with client.layer("team/app", digest, start) as body:
            return b"".join([chunk async for chunk in body.chunks()])

    return asyncio.ensure_future(read())


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


# ---- 1: credentials go only to a realm of the upstream's registrable domain ------------------------------------------
@pytest.mark.parametrize(
    ("realm", "fine"),
    [
        ("https://auth.docker.io/token", True),
        ("https://registry-1.docker.io/token", True),
        ("https://docker.io.evil.example/token", False),
        ("https://evil.io/token", False),
        ("http://auth.docker.io/token", False),
        ("https://user:word@auth.docker.io/token", False),
        ("https://127.0.0.1/token", False),
    ],
)
def test_a_realm_is_of_the_upstreams_registrable_domain(realm: str, fine: bool) -> None:
    reach = UpstreamReach(URL("https://registry-1.docker.io"))
    if fine:
        assert reach.realm(realm).host
        return
    with pytest.raises(UpstreamFailed):
        reach.realm(realm)


@pytest.mark.parametrize(
    ("host", "other", "same"),
    [
        ("gitlab.com", "registry.gitlab.com", True),
        ("a.example.co.uk", "b.example.co.uk", True),
        ("one.co.uk", "two.co.uk", False),
        ("one.github.io", "two.github.io", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "128.0.0.1", False),
        ("a.localhost", "b.localhost", False),
        ("localhost", "localhost", True),
        ("::1", "::2", False),
        ("", "", False),
    ],
)
def test_two_hosts_are_of_one_site_by_the_public_suffix_list(host: str, other: str, same: bool) -> None:
    assert is_same_site(host, other) is same


async def test_a_token_is_fetched_once_for_a_scope_and_asked_for_by_name() -> None:
    far = FarRegistry(basic="me:hunter2", tokens=True)
    far.add_image("team/app", "1", b"layer")
    async with asking(far, PULLER) as client:
        for _ in range(3):
            await client.manifest("team/app", "1")
        assert far.issued == ["repository:team/app:pull"]


async def test_a_realm_elsewhere_is_sent_no_credentials() -> None:
    far, stranger = FarRegistry(basic="me:hunter2", tokens=True), FarRegistry()
    async with stranger.serving() as address, asking(far, PULLER) as client:
        far.realm = f"http://localhost:{address.partition(':')[2]}/token"
        found = await failure(client.manifest("team/app", "1"))
    assert found.reason is UpstreamReason.DENIED
    assert stranger.asked == []
    assert "hunter2" not in f"{found} {found.said} {PULLER!r}"


async def test_a_wrong_password_is_a_denial() -> None:
    far = FarRegistry(basic="me:other", tokens=True)
    async with asking(far, PULLER) as client:
        assert (await failure(client.manifest("team/app", "1"))).reason is UpstreamReason.DENIED


# ---- 2: redirects ----------------------------------------------------------------------------------------------------
async def test_a_redirect_to_another_origin_carries_no_authorization() -> None:
    far, store = FarRegistry(basic="me:hunter2"), FarRegistry()
    digest = digest_of(b"layer")
    far.blobs["team/app"] = store.blobs["team/app"] = {digest: b"layer"}
    async with store.serving() as address:
        far.layers_at = f"http://{address}"
        async with asking(far, PULLER, more=(f"http://{address}",)) as client:
            assert await body_of(client, digest) == b"layer"
    assert far.asked[-1].authorization
    assert [each.authorization for each in store.asked] == [""]


async def test_more_hops_than_five_are_not_followed() -> None:
    far = FarRegistry()

    async def onward(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": "/v2/team/app/manifests/1"})

    far.answers["GET /v2/team/app/manifests/1"] = onward
    async with asking(far) as client:
        assert (await failure(client.manifest("team/app", "1"))).kind == "redirects"
    assert len(far.asked) == HOPS + 1


def test_https_is_never_redirected_to_http() -> None:
    reach = UpstreamReach(URL("https://ghcr.io"))
    with pytest.raises(UpstreamFailed):
        reach.redirected("http://ghcr.io/x", URL("https://ghcr.io/v2/"))
    assert reach.redirected("https://cdn.example/x?sig=a%2Bb", URL("https://ghcr.io/v2/")).host == "cdn.example"


async def test_a_redirect_to_a_private_address_is_refused_unless_listed() -> None:
    far, inside = FarRegistry(), FarRegistry()
    digest = digest_of(b"layer")
    far.blobs["team/app"] = inside.blobs["team/app"] = {digest: b"layer"}
    async with inside.serving() as address, asking(far) as client:
        far.layers_at = f"http://localhost:{address.partition(':')[2]}"
        found = await failure(body_of(client, digest))
    assert (found.reason, found.kind, inside.asked) == (UpstreamReason.DENIED, "private-address", [])


async def test_a_loopback_upstream_that_nobody_listed_is_not_asked() -> None:
    far = FarRegistry()
    async with asking(far, listed=False) as client:
        assert (await failure(client.ping())).kind == "private-address"
    assert far.asked == []


async def test_a_name_that_leads_to_a_private_address_is_refused_as_it_is_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DNS rebinding: whatever a name was checked as, the address that is connected to decides."""

    async def rebound(*_: object, **__: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.7", 443))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", rebound)
    upstream = Upstream(URL("https://public.example"))
    async with UpstreamClient(upstream, None, clock=time.monotonic, note=lambda *_: None) as client:
        found = await failure(client.ping())
    assert (found.reason, found.kind) == (UpstreamReason.DENIED, "private-address")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "::1", "::", "fe80::1%eth0", "fc00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "name"],
)  # fmt: skip
def test_what_is_no_public_address_gets_no_socket(address: str) -> None:
    assert not is_public(address)
    with pytest.raises(AddressRefused):
        socket_factory(())((socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)))


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_a_public_address_is_one(address: str) -> None:
    assert is_public(address)


# ---- 3: what is asked for, and what must hash ------------------------------------------------------------------------
async def test_manifests_of_all_kinds_are_accepted_and_kept_to_the_byte() -> None:
    far, seen = FarRegistry(), []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers["Accept"])
        return web.Response(body=b'{ "schemaVersion":2 }', content_type="application/vnd.oci.image.index.v1+json")

    far.answers["GET /v2/team/app/manifests/1"] = answer
    async with asking(far) as client:
        found = await client.manifest("team/app", "1")
    assert found.content == b'{ "schemaVersion":2 }'
    assert found.digest == digest_of(found.content)
    assert seen[0].split(", ")[0] == found.media_type == "application/vnd.oci.image.index.v1+json"


async def test_a_manifest_that_does_not_hash_to_what_was_asked_for_is_refused() -> None:
    far = FarRegistry()
    far.manifests["team/app", digest_of(b"one")] = ("a/b", b"other")
    async with asking(far) as client:
        assert (await failure(client.manifest("team/app", digest_of(b"one")))).reason is UpstreamReason.WRONG


async def test_a_manifest_that_does_not_hash_to_its_docker_content_digest_is_refused() -> None:
    far = FarRegistry(headers={"Docker-Content-Digest": digest_of(b"one")})
    far.add_manifest("team/app", "1", "a/b", b"other")
    async with asking(far) as client:
        assert (await failure(client.manifest("team/app", "1"))).kind == "wrong-digest"


async def test_a_look_is_a_head_and_tells_the_digest() -> None:
    far = FarRegistry()
    digest = far.add_image("team/app", "1", b"layer")
    async with asking(far) as client:
        found = await client.manifest("team/app", "1", look=True)
    assert (found.digest, found.content, far.asked[-1].method) == (digest, b"", "HEAD")


def test_official_images_of_docker_hub_lie_under_library() -> None:
    hub, ours = Upstream(URL("https://registry-1.docker.io")), Upstream(URL("https://ghcr.io"))
    assert (hub.path_of("alpine"), hub.path_of("a/b"), ours.path_of("alpine")) == ("library/alpine", "a/b", "alpine")


# ---- 5 and 7: bodies -------------------------------------------------------------------------------------------------
async def test_a_body_that_ends_early_is_a_failure_and_no_end() -> None:
    far, digest = FarRegistry(), digest_of(b"layer")
    far.blobs["team/app"] = {digest: b"layer"}

    async def cut(content: bytes) -> AsyncIterator[bytes]:
        yield content[:2]
        raise ConnectionResetError

    far.pieces = cut
    async with asking(far) as client:
        found = await failure(body_of(client, digest))
    assert (found.reason, found.kind) == (UpstreamReason.UNAVAILABLE, "cut-short")


@pytest.mark.parametrize("no_ranges", [False, True])
async def test_a_layer_goes_on_from_a_byte_whether_the_upstream_knows_ranges_or_not(no_ranges: bool) -> None:
    far, digest = FarRegistry(no_ranges=no_ranges), digest_of(b"layer")
    far.blobs["team/app"] = {digest: b"layer"}
    async with asking(far) as client:
        assert await body_of(client, digest, 2) == b"yer"


# ---- 8: limits -------------------------------------------------------------------------------------------------------
async def test_no_more_layers_are_asked_for_at_once_than_there_are_connections() -> None:
    far, digest = FarRegistry(), digest_of(b"layer")
    far.blobs["team/app"] = {digest: b"layer"}
    most = running = 0

    async def slow(content: bytes) -> AsyncIterator[bytes]:
        nonlocal most, running
        running += 1
        most = max(most, running)
        yield content[:1]
        await asyncio.sleep(0.01)
        running -= 1
        yield content[1:]

    far.pieces = slow
    async with asking(far, connections=2) as client:
        assert await asyncio.gather(*[body_of(client, digest) for _ in range(8)]) == [b"layer"] * 8
    assert most == 2


async def test_a_429_is_told_with_its_seconds_and_not_asked_again_before() -> None:
    far = FarRegistry(refuse=(0, ""))
    now = 100.0

    async def limited(request: web.Request) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": "17"})

    far.answers["GET /v2/team/app/manifests/1"] = limited
    async with asking(far, clock=lambda: now) as client:
        first = await failure(client.manifest("team/app", "1"))
        second = await failure(client.manifest("team/app", "2"))
        assert (first.reason, first.seconds, second.reason, second.seconds) == (
            UpstreamReason.LIMITED, 17.0, UpstreamReason.LIMITED, 17.0,
        )  # fmt: skip
        assert len(far.asked) == 1
        now += 18
        assert (await failure(client.manifest("team/app", "2"))).reason is UpstreamReason.MISSING


async def test_the_budget_is_what_the_upstream_says_is_left() -> None:
    far = FarRegistry(headers={"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "9;w=21600"})
    far.add_image("team/app", "1", b"layer")
    now = 100.0
    async with asking(far, clock=lambda: now) as client:
        assert not client.budget.is_below(10)
        await client.manifest("team/app", "1")
        assert (client.budget.remaining, client.budget.limit) == (9, 100)
        assert client.budget.is_below(10)
        assert not client.budget.is_below(9)
        now += 21601
        assert not client.budget.is_below(10)


async def test_an_upstream_that_does_not_answer_is_soon_not_asked_any_more() -> None:
    far = FarRegistry()
    now = 100.0

    async def broken(request: web.Request) -> web.Response:
        return web.Response(status=500)

    far.answers["GET /v2/"] = broken
    async with asking(far, clock=lambda: now) as client:
        for _ in range(FAILURES):
            assert (await failure(client.ping())).kind == "500"
            now += SUFFERED / (FAILURES - 1) + 0.01
        asked = len(far.asked)
        assert (await failure(client.ping())).kind == "circuit-open"
        assert len(far.asked) == asked
        del far.answers["GET /v2/"]
        now += 10.0
        await client.ping()  # it answers: the circuit is closed again
        await client.ping()


@pytest.mark.parametrize(("text", "seconds"), [("5", 5.0), ("0", 1.0), ("", 60.0), ("x", 60.0), ("99999", 3600.0)])
def test_retry_after_is_bounded(text: str, seconds: float) -> None:
    assert retry_after({"Retry-After": text}) == seconds
