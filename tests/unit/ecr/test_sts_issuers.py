"""Keys of issuers come over HTTPS, from allowed addresses only, within bounds, and no oftener than needed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

from proxy.auth.web_identity import IdToken, read_token, verify_token
from proxy.ecr.sts.issuers import UNVERIFIABLE, Issuers, is_allowed
from proxy.model.errors import Code, Failure
from support.issuer import DISCOVERY, Answer, Issuer, endless, never, public_key, says, sign, status


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Issuer]:
    directory = tmp_path_factory.mktemp("issuer")
    return directory, Issuer(directory)


@pytest.fixture
async def issuer(prepared: tuple[Path, Issuer]) -> AsyncIterator[Issuer]:
    _, issuer = prepared
    issuer.asked, issuer.paths = [], {}
    await issuer.begin()
    yield issuer
    await issuer.finish()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def issuers(issuer: Issuer, clock: Clock) -> Issuers:
    return Issuers([issuer.url], tls=issuer.trusting, clock=clock, seconds=3.0)


async def refusal(issuers: Issuers, token: IdToken) -> Failure:
    with pytest.raises(Failure) as caught:
        await issuers.keys(token)
    assert caught.value.message == UNVERIFIABLE
    return caught.value


async def test_the_key_that_signed_is_found_by_discovery(issuer: Issuer, issuers: Issuers) -> None:
    token = read_token(issuer.token())
    verify_token(token, await issuers.keys(token))
    assert issuer.asked == [DISCOVERY, "/keys"]


async def test_keys_are_kept_for_ten_minutes(issuer: Issuer, issuers: Issuers, clock: Clock) -> None:
    token = read_token(issuer.token())
    await issuers.keys(token)
    clock.now += 599
    await issuers.keys(token)
    assert len(issuer.asked) == 2
    clock.now += 2
    await issuers.keys(token)
    assert len(issuer.asked) == 4


async def test_many_requests_at_once_ask_the_issuer_once(issuer: Issuer, issuers: Issuers) -> None:
    token = read_token(issuer.token())
    await asyncio.gather(*(issuers.keys(token) for _ in range(20)))
    assert len(issuer.asked) == 2


async def test_a_rotated_key_is_found_and_the_old_one_is_forgotten(
    issuer: Issuer, issuers: Issuers, clock: Clock
) -> None:
    old = read_token(issuer.token())
    await issuers.keys(old)
    before = issuer.keys
    issuer.rotate("two")
    try:
        new = read_token(issuer.token("two"))
        clock.now += 30
        verify_token(new, await issuers.keys(new))
        await refusal(issuers, old)
    finally:
        issuer.keys = before


async def test_made_up_key_ids_ask_the_issuer_twice_a_minute_at_most(
    issuer: Issuer, issuers: Issuers, clock: Clock
) -> None:
    await issuers.keys(read_token(issuer.token()))
    for at in range(12):
        made_up = read_token(sign({"iss": issuer.url}, issuer.keys["one"], kid=f"made-up-{at}"))
        assert (await refusal(issuers, made_up)).code is Code.INVALID_IDENTITY_TOKEN
        clock.now += 5
    assert issuer.asked.count("/keys") == 2


async def test_who_shows_a_known_key_does_not_wait_for_the_search_for_a_made_up_one(
    issuer: Issuer, issuers: Issuers, clock: Clock
) -> None:
    known = read_token(issuer.token())
    await issuers.keys(known)
    clock.now += 31
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        asked.set()
        await answer.wait()
        return web.Response(status=503)

    issuer.paths = {DISCOVERY: slow}
    made_up = read_token(sign({"iss": issuer.url}, issuer.keys["one"], kid="made-up"))
    searching = asyncio.create_task(refusal(issuers, made_up))
    try:
        await asked.wait()
        async with asyncio.timeout(2.0):
            verify_token(known, await issuers.keys(known))
        assert not searching.done()
    finally:
        answer.set()
        await searching


async def test_a_failed_try_is_not_repeated_at_once(issuer: Issuer, issuers: Issuers, clock: Clock) -> None:
    issuer.paths[DISCOVERY] = status(503)
    token = read_token(issuer.token())
    for _ in range(5):
        assert (await refusal(issuers, token)).code is Code.IDP_COMMUNICATION
    assert len(issuer.asked) == 1
    del issuer.paths[DISCOVERY]
    clock.now += 5
    assert await issuers.keys(token)


def elsewhere(path: str) -> Answer:
    return status(302, Location=path)


@pytest.mark.parametrize(
    ("path", "answer", "code"),
    [
        (DISCOVERY, status(404), Code.INVALID_IDENTITY_TOKEN),
        (DISCOVERY, status(500), Code.IDP_COMMUNICATION),
        (DISCOVERY, says(["not", "an", "object"]), Code.INVALID_IDENTITY_TOKEN),
        (DISCOVERY, says({"issuer": "https://other.example", "jwks_uri": "x"}), Code.INVALID_IDENTITY_TOKEN),
        (DISCOVERY, endless(), Code.INVALID_IDENTITY_TOKEN),
        (DISCOVERY, elsewhere("http://localhost/"), Code.INVALID_IDENTITY_TOKEN),
        (DISCOVERY, elsewhere("https://other.example/"), Code.INVALID_IDENTITY_TOKEN),
        (DISCOVERY, elsewhere(DISCOVERY), Code.INVALID_IDENTITY_TOKEN),
        ("/keys", says({"keys": "none"}), Code.INVALID_IDENTITY_TOKEN),
        ("/keys", says({"keys": [{"kty": "RSA"}] * 101}), Code.INVALID_IDENTITY_TOKEN),
        ("/keys", says({"keys": []}), Code.INVALID_IDENTITY_TOKEN),
        ("/keys", endless(), Code.INVALID_IDENTITY_TOKEN),
        ("/keys", status(200), Code.INVALID_IDENTITY_TOKEN),
    ],
    ids=[
        "no-discovery",
        "issuer-is-broken",
        "a-list",
        "another-issuer",
        "huge",
        "redirect-to-http",
        "redirect-off-the-list",
        "redirect-loop",
        "no-keys",
        "too-many-keys",
        "empty-set",
        "huge-keys",
        "not-json",
    ],
)
async def test_an_issuer_that_does_it_wrong_vouches_for_nobody(
    issuer: Issuer, issuers: Issuers, path: str, answer: Answer, code: Code
) -> None:
    issuer.paths[path] = answer
    assert (await refusal(issuers, read_token(issuer.token()))).code is code


async def test_a_document_that_is_deeply_nested_is_no_document(issuer: Issuer, issuers: Issuers) -> None:
    async def nested(request: web.Request) -> web.Response:
        return web.Response(text="[" * 100_000)

    issuer.paths["/keys"] = nested
    assert (await refusal(issuers, read_token(issuer.token()))).code is Code.INVALID_IDENTITY_TOKEN


@pytest.mark.parametrize("address", ["http://localhost/keys", "https://other.example/keys", "file:///etc/passwd", 7])
async def test_keys_are_not_fetched_from_where_the_list_does_not_allow(
    issuer: Issuer, issuers: Issuers, address: Any
) -> None:
    issuer.paths[DISCOVERY] = says({"issuer": issuer.url, "jwks_uri": address})
    assert (await refusal(issuers, read_token(issuer.token()))).code is Code.INVALID_IDENTITY_TOKEN


async def test_a_redirect_on_the_list_is_followed(issuer: Issuer, issuers: Issuers) -> None:
    issuer.paths[DISCOVERY] = says({"issuer": issuer.url, "jwks_uri": f"{issuer.url}/old-keys"})
    issuer.paths["/old-keys"] = elsewhere("/keys")
    assert await issuers.keys(read_token(issuer.token()))


async def test_an_issuer_that_says_nothing_is_given_up_within_the_time(issuer: Issuer, clock: Clock) -> None:
    issuer.paths[DISCOVERY] = never()
    issuers = Issuers([issuer.url], tls=issuer.trusting, clock=clock, seconds=0.2)
    async with asyncio.timeout(5):
        assert (await refusal(issuers, read_token(issuer.token()))).code is Code.IDP_COMMUNICATION


async def test_an_issuer_whose_certificate_nobody_vouches_for_is_not_believed(issuer: Issuer, clock: Clock) -> None:
    stranger = ssl.create_default_context()
    issuers = Issuers([issuer.url], tls=stranger, clock=clock)
    assert (await refusal(issuers, read_token(issuer.token()))).code is Code.IDP_COMMUNICATION
    assert issuer.asked == []


async def test_an_issuer_that_is_not_on_the_list_is_not_asked(issuer: Issuer, clock: Clock) -> None:
    issuers = Issuers([], tls=issuer.trusting, clock=clock)
    assert (await refusal(issuers, read_token(issuer.token()))).code is Code.INVALID_IDENTITY_TOKEN
    assert issuer.asked == []


async def test_a_question_that_is_given_up_leaves_the_next_one_its_turn(issuer: Issuer, issuers: Issuers) -> None:
    issuer.paths[DISCOVERY] = never()
    token = read_token(issuer.token())
    asking = asyncio.create_task(issuers.keys(token))
    while not issuer.asked:  # noqa: ASYNC110 - the server has no event for it
        await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    del issuer.paths[DISCOVERY]
    failed = await refusal(issuers, token)  # within 5 seconds of the try
    assert failed.code is Code.INVALID_IDENTITY_TOKEN


@pytest.mark.parametrize(
    ("address", "patterns", "expected"),
    [
        ("https://idp.example", ["https://idp.example"], True),
        ("https://IDP.example/", ["https://idp.EXAMPLE/"], True),
        ("https://idp.example:443/a", ["https://idp.example"], True),
        ("https://idp.example:8443", ["https://idp.example:8443"], True),
        ("https://idp.example:8443", ["https://idp.example"], False),
        ("https://idp.example/a/b?p=1", ["https://idp.example/a"], True),
        ("https://idp.example/ab", ["https://idp.example/a"], False),
        ("https://idp.example/a/../b", ["https://idp.example/a"], False),
        ("https://idp.example/a/%2e%2e/b", ["https://idp.example/a"], False),
        ("https://idp.example/a/..", ["https://idp.example/a"], False),
        ("https://idp.example/a%2f..%2fb", ["https://idp.example/a"], False),
        ("https://a.idp.example", ["https://*.idp.example"], True),
        ("https://a.b.idp.example", ["https://*.idp.example"], True),
        ("https://idp.example", ["https://*.idp.example"], False),
        ("https://evilidp.example", ["https://*.idp.example"], False),
        ("https://idp.example.evil", ["https://idp.example"], False),
        ("https://evil@idp.example", ["https://idp.example"], False),
        ("https://idp.example@evil", ["https://idp.example", "https://*.evil"], False),
        ("https://idp.example\\@evil", ["https://idp.example"], False),
        ("https://idp.example#@evil", ["https://idp.example"], False),
        ("https://idp.example\n", ["https://idp.example"], False),
        ("https://ídp.example", ["https://ídp.example"], False),
        ("http://idp.example", ["https://idp.example"], False),
        ("idp.example", ["https://idp.example"], False),
        ("", ["https://idp.example"], False),
        ("https://idp.example", [], False),
    ],
)
def test_an_address_is_allowed_by_host_port_and_whole_segments(
    address: str, patterns: list[str], expected: bool
) -> None:
    assert is_allowed(address, patterns) is expected


def test_a_weak_key_of_an_issuer_proves_nothing() -> None:
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505  # that it is weak is the point

    with pytest.warns(match="1024"):
        token = read_token(sign({"iss": "https://idp.example"}, weak))
    with pytest.raises(Failure):
        verify_token(token, [public_key(weak)])
