"""Challenges as registries write them, and tokens: one for each scope, kept while they are good, shown to nobody."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from yarl import URL

from proxy.upstream.address import Reach
from proxy.upstream.challenge import RegistryAuthorizer, parse_challenges
from proxy.upstream.errors import RequestFailed

BEARER = ['Bearer realm="https://auth.example/token",service="far.example",scope="repository:a:pull"']
PULL, PUSH = ("repository:a:pull",), ("repository:a:pull,push",)
BASIC = "Basic bWU6aHVudGVyMg=="  # me:hunter2


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (['Basic realm="x"'], {"basic": {"realm": "x"}}),
        (["Basic"], {"basic": {}}),
        (['BASIC Realm=x , charset="UTF-8"'], {"basic": {"realm": "x", "charset": "UTF-8"}}),
        (BEARER, {"bearer": {"realm": "https://auth.example/token", "service": "far.example", "scope": PULL[0]}}),
        (
            ['Bearer realm="a\\"b", service=c, Basic realm="d"'],
            {"bearer": {"realm": 'a"b', "service": "c"}, "basic": {"realm": "d"}},
        ),
        (['Bearer realm="a"', "Basic realm=b"], {"bearer": {"realm": "a"}, "basic": {"realm": "b"}}),
        ([""], {}),
        ([], {}),
        ([",,,"], {}),
        (['Bearer realm="open'], None),
        (['"' * 10_000], None),
        (["=" * 100_000], None),
    ],
)  # fmt: skip
def test_challenges_are_read_as_they_are_written(headers: list[str], found: dict[str, Any] | None) -> None:
    """And what is none (`None`) ends, whatever it is read as."""
    read = parse_challenges(headers)
    assert found is None or read == found


class Realm:
    """Gives out numbered tokens; `body` is answered instead when it is set."""

    def __init__(self, username: str = "me", **facts: Any) -> None:
        self.now = 100.0
        self.facts = facts
        self.body = b""
        self.slow: asyncio.Event | None = None  # an answer waits for it
        self.asked: list[tuple[URL, dict[str, str]]] = []
        reach = Reach(URL("https://far.example"))
        self.credentials = RegistryAuthorizer(
            username, "hunter2" if username else "", reach, self._fetch, lambda: self.now
        )

    async def _fetch(self, url: URL, headers: dict[str, str]) -> bytes:
        self.asked.append((url, headers))
        body = self.body or json.dumps({"token": f"t{len(self.asked)}", **self.facts}).encode()
        await (self.slow.wait() if self.slow else asyncio.sleep(0))
        return body


async def test_nothing_is_sent_before_it_is_asked_for() -> None:
    """So that a registry which wants nobody's name is told none."""
    assert await Realm().credentials.header(PULL) == ""


async def test_basic_is_sent_once_it_is_asked_for_and_not_again_when_it_is_refused() -> None:
    credentials = Realm().credentials
    assert await credentials.learn(["Basic realm=x"], "", PULL)
    assert await credentials.header(PULL) == BASIC
    assert not await credentials.learn(["Basic realm=x"], BASIC, PULL)


async def test_who_has_no_name_cannot_answer_basic() -> None:
    assert not await Realm(username="").credentials.learn(["Basic realm=x"], "", PULL)


async def test_a_token_is_asked_for_with_service_scope_and_basic() -> None:
    realm = Realm()
    assert await realm.credentials.learn(BEARER, "", PUSH)
    assert await realm.credentials.header((*PUSH, *PULL)) == "Bearer t1"
    [(url, headers)] = realm.asked
    assert url.origin() == URL("https://auth.example")
    assert list(url.query.items()) == [("service", "far.example"), ("scope", PUSH[0]), ("scope", PULL[0])]
    assert headers == {"Authorization": BASIC}


async def test_who_has_no_name_asks_for_a_token_without_one() -> None:
    realm = Realm(username="")
    assert await realm.credentials.learn(BEARER, "", PULL)
    assert await realm.credentials.header(PULL) == "Bearer t1"
    assert realm.asked[0][1] == {}


async def test_a_token_is_fetched_once_for_all_who_wait_and_once_for_each_scope() -> None:
    realm = Realm()
    await realm.credentials.learn(BEARER, "", PULL)
    assert set(await asyncio.gather(*(realm.credentials.header(PULL) for _ in range(50)))) == {"Bearer t1"}
    assert await realm.credentials.header(PUSH) == "Bearer t2"
    assert len(realm.asked) == 2


async def test_a_slow_token_holds_up_only_those_who_need_it() -> None:
    realm = Realm()
    await realm.credentials.learn(BEARER, "", PULL)
    realm.slow = asyncio.Event()
    waiting = asyncio.create_task(realm.credentials.header(PULL))
    await asyncio.sleep(0)
    slow, realm.slow = realm.slow, None
    assert await realm.credentials.header(PUSH) == "Bearer t2"
    slow.set()
    assert await waiting == "Bearer t1"
    assert realm.credentials._fetching == {}


@pytest.mark.parametrize(("facts", "life"), [({"expires_in": 300}, 240), ({}, 48), ({"expires_in": 10**12}, 69_120)])
async def test_a_token_is_fetched_anew_when_four_fifths_of_its_time_are_over(facts: dict[str, Any], life: int) -> None:
    realm = Realm(**facts)
    await realm.credentials.learn(BEARER, "", PULL)
    assert await realm.credentials.header(PULL) == "Bearer t1"
    realm.now += life - 1
    assert await realm.credentials.header(PULL) == "Bearer t1"
    realm.now += 2
    assert await realm.credentials.header(PULL) == "Bearer t2"


async def test_a_token_that_is_refused_before_its_time_is_not_sent_again() -> None:
    realm = Realm()
    await realm.credentials.learn(BEARER, "", PULL)
    sent = await realm.credentials.header(PULL)
    assert await realm.credentials.learn(BEARER, sent, PULL)
    assert await realm.credentials.header(PULL) == "Bearer t2"


async def test_tokens_that_are_kept_are_bounded() -> None:
    realm = Realm()
    await realm.credentials.learn(BEARER, "", PULL)
    for number in range(4200):
        await realm.credentials.header((f"repository:r{number}:pull",))
    assert len(realm.credentials._tokens) == 4096
    assert await realm.credentials.header(("repository:r4199:pull",)) == "Bearer t4200"


@pytest.mark.parametrize(
    "body",
    [b"no", b"[]", b"{}", b'{"token": 5}', b'{"token": "a b"}', b'{"token": "a\\r\\nHost: x"}', b'{"token": ""}',
     b'{"token": "t", "expires_in": "soon"}', b"[" * 60_000],
)  # fmt: skip
async def test_what_is_no_token_fails_and_is_sent_nowhere(body: bytes) -> None:
    realm = Realm()
    realm.body = body
    await realm.credentials.learn(BEARER, "", PULL)
    with pytest.raises(RequestFailed, match="bad-token"):
        await realm.credentials.header(PULL)


async def test_a_plain_realm_of_an_encrypted_registry_is_told_nothing() -> None:
    realm = Realm()
    await realm.credentials.learn(['Bearer realm="http://far.example/token"'], "", PULL)
    with pytest.raises(RequestFailed, match="refused-address"):
        await realm.credentials.header(PULL)
    assert realm.asked == []


async def test_it_shows_no_secret() -> None:
    realm = Realm()
    await realm.credentials.learn(BEARER, "", PULL)
    await realm.credentials.header(PULL)
    shown = repr(realm.credentials)
    assert "1 tokens" in shown
    assert "hunter2" not in shown
    assert "t1" not in shown
