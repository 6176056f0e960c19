"""Limits of connections: whose is closed for a new one, what is refused, and that probes are answered all the same."""

from __future__ import annotations

import asyncio
import json
import ssl

import pytest
from aiohttp import web

from proxy import observe
from proxy.http import connections, handshakes
from proxy.http.connections import LINGER_SECONDS, LINGERS, LINGERS_PER_CLIENT, RESERVE, Admission, ConnectionLimiter
from proxy.http.forwarded import client_of
from proxy.http.limited_connection import client_of as client_of_request
from proxy.http.selfsigned import make_self_signed
from proxy.http.tls import server_context
from support.http_handler import FakeHandler, RawConnection, get, serving

LONG = 10.0


class Held:
    """A connection as the limiter sees it."""

    def __init__(self, client: str, idle_since: float = 0.0, *, busy: bool = False) -> None:
        self.client = client
        self.idle_since = idle_since
        self.busy = busy
        self.evicted = False

    def is_idle(self) -> bool:
        return not self.busy

    def evict(self) -> None:
        self.evicted = True


def filled(limiter: ConnectionLimiter, *held: Held) -> list[Held]:
    for each in held:
        assert limiter.add(each, 0.0) is Admission.TAKEN
    return list(held)


def evicted(held: list[Held]) -> list[int]:
    return [number for number, each in enumerate(held) if each.evicted]


def test_over_the_limit_the_longest_idle_one_of_the_client_with_the_most_is_closed() -> None:
    limiter = ConnectionLimiter(5, 100)
    held = filled(limiter, Held("b", 0), Held("a", 3), Held("a", 1, busy=True), Held("a", 2), Held("b", 0))
    assert limiter.add(Held("c"), 10) is Admission.TAKEN
    assert evicted(held) == [3]
    assert len(limiter) == 5


def test_each_next_one_is_of_whoever_then_has_the_most() -> None:
    """Three of a, two of b: one of a makes them equal, then the longest idle of both goes."""
    limiter = ConnectionLimiter(5, 100)
    held = filled(limiter, Held("a", 5), Held("a", 6), Held("a", 7), Held("b", 1), Held("b", 2))
    for number, closed in enumerate(([0], [0, 3], [0, 1, 3])):
        assert limiter.add(Held(f"c{number}"), 10 + number) is Admission.TAKEN
        assert evicted(held) == closed


def test_a_connection_with_a_request_under_way_is_never_closed() -> None:
    """If none is idle the new one is in the reserve, and is taken once there is space."""
    limiter = ConnectionLimiter(2, 100)
    held = filled(limiter, Held("a", busy=True), Held("a", busy=True))
    new = Held("b")
    assert limiter.add(new, 10) is Admission.RESERVE
    assert not evicted(held)
    held[1].busy = False
    assert limiter.add(new, 11) is Admission.TAKEN
    assert evicted(held) == [1]


def test_one_that_became_busy_after_it_was_ranked_is_passed_over() -> None:
    limiter = ConnectionLimiter(3, 100)
    held = filled(limiter, Held("a", 1), Held("a", 2), Held("a", 3))
    assert limiter.add(Held("b"), 10) is Admission.TAKEN
    held[1].busy = True
    assert limiter.add(Held("c"), 11) is Admission.TAKEN
    assert evicted(held) == [0, 2]


def test_a_client_that_holds_more_than_others_takes_none_of_theirs() -> None:
    limiter = ConnectionLimiter(4, 100)
    held = filled(limiter, Held("a", busy=True), Held("a", busy=True), Held("a", busy=True), Held("b"))
    assert limiter.add(Held("a"), 10) is Admission.RESERVE
    assert not evicted(held)
    assert limiter.add(Held("c"), 10.01) is Admission.TAKEN
    assert evicted(held) == [3]


def test_over_its_own_limit_a_client_loses_its_longest_idle_one() -> None:
    limiter = ConnectionLimiter(100, 2)
    held = filled(limiter, Held("b", 0), Held("a", 2), Held("a", 1))
    assert limiter.add(Held("a", 3), 10) is Admission.TAKEN
    assert evicted(held) == [2]
    held[1].busy = True
    busy = [Held("b", busy=True), Held("b", busy=True)]
    limiter.remove(held[0])
    filled(limiter, *busy)
    assert limiter.add(Held("b"), 10) is Admission.RESERVE


def test_connections_of_trusted_proxies_have_no_limit_each_and_are_closed_last() -> None:
    limiter = ConnectionLimiter(5, 2)
    held = filled(limiter, Held("", 1), Held("", 2), Held("", 3), Held("a", 5), Held("a", 6))
    assert limiter.add(Held("", 7), 10) is Admission.TAKEN
    assert limiter.add(Held("b", 7), 10) is Admission.TAKEN
    assert evicted(held) == [3, 4]
    busy = Held("b", 7, busy=True)
    assert limiter.add(busy, 10.2) is Admission.TAKEN
    assert limiter.add(Held(""), 10.4) is Admission.TAKEN
    assert evicted(held) == [0, 3, 4]


def test_requests_through_a_proxy_are_counted_by_the_client_it_forwards() -> None:
    limiter = ConnectionLimiter(5, 2)
    assert [limiter.begin_request("a") for _ in range(3)] == [True, True, False]
    assert limiter.begin_request("b")
    limiter.end_request("a")
    assert limiter.begin_request("a")


def test_few_connections_are_read_on_after_a_refusal_and_fewer_of_one_client() -> None:
    limiter = ConnectionLimiter(1000, 1000)
    assert sum(limiter.may_linger("a", 0) for _ in range(1000)) == LINGERS_PER_CLIENT
    assert sum(limiter.may_linger(f"b{number}", 1) for number in range(1000)) == LINGERS - LINGERS_PER_CLIENT
    assert not limiter.may_linger("", 1)
    assert limiter.may_linger("a", LINGER_SECONDS)


def test_the_reserve_is_bounded_and_its_oldest_without_a_request_goes_first() -> None:
    limiter = ConnectionLimiter(1, 100)
    filled(limiter, Held("a", busy=True))
    reserve = [Held("a", number) for number in range(RESERVE)]
    reserve[0].busy = True
    assert {limiter.add(each, 10) for each in reserve} == {Admission.RESERVE}
    assert limiter.add(Held("a"), 10) is Admission.RESERVE
    assert evicted(reserve) == [1]
    for each in reserve:
        each.busy = True
    late = Held("a", busy=True)
    assert limiter.add(late, 10) is Admission.RESERVE
    assert limiter.add(Held("a"), 10) is Admission.REFUSED
    limiter.remove(late)
    limiter.remove(late)
    assert limiter.add(Held("a"), 10) is Admission.RESERVE


def test_what_cannot_find_space_is_not_ranked_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood at a full server costs a look at all connections now and then, not each time."""
    ranked = 0
    real = ConnectionLimiter._rank

    def counted(limiter: ConnectionLimiter) -> object:
        nonlocal ranked
        ranked += 1
        return real(limiter)

    monkeypatch.setattr(ConnectionLimiter, "_rank", counted)
    monkeypatch.setattr(connections, "_RANK_PAUSE", 0.1)
    limiter = ConnectionLimiter(3, 100)
    filled(limiter, *(Held("a", busy=True) for _ in range(3)))
    for number in range(100):
        limiter.add(Held("b", busy=True), 10 + number / 1000)
    assert ranked == 1


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        (None, ""),
    ],
)
def test_a_client_is_an_ipv4_address_or_an_ipv6_network(address: str | None, client: str) -> None:
    """One host has a whole /64 of addresses, and counts once."""
    assert client_of(address) == client


Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    """(the server's, a client's that trusts it)."""
    authority, certificate, key = make_self_signed(tmp_path_factory.mktemp("tls"), "127.0.0.1")
    return server_context(certificate, key), ssl.create_default_context(cafile=str(authority))


# ---- at the socket -------------------------------------------------------------------------------------------------


async def test_an_idle_connection_is_closed_for_a_new_one_and_a_busy_one_answers() -> None:
    handler = FakeHandler()
    async with serving(handler, connections=2) as (_, connect):
        busy = await connect()
        busy.writer.write(get("/slow"))
        await handler.entered.wait()
        idle = await connect()
        assert (await idle.ask(get()))[0] == 200
        new = await connect()
        assert (await new.ask(get()))[0] == 200
        assert await asyncio.wait_for(idle.is_closed(), LONG)
        handler.release.set()
        assert (await busy.answer())[0] == 200


async def full(handler: FakeHandler, connect: object, count: int) -> list[RawConnection]:
    """So many connections, each with a request under way."""
    lines = []
    for _ in range(count):
        line = await connect()  # type: ignore[operator]
        line.writer.write(get("/slow"))
        lines.append(line)
    while len(handler.seen) < count:  # noqa: ASYNC110 - the door sets one event for all
        await asyncio.sleep(0.01)
    return lines


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_with_none_idle_a_request_is_503_with_retry_after_and_its_connection_ends(
    tls: bool, contexts: Contexts
) -> None:
    """And as soon as one is idle again, the next is served."""
    handler = FakeHandler()
    async with serving(handler, tls=contexts[0] if tls else None, connections=2) as (_, connect):

        async def dial() -> RawConnection:
            line = await connect()
            if tls:
                await line.writer.start_tls(contexts[1], server_hostname="127.0.0.1")
            return line

        lines = await full(handler, dial, 2)
        refused = await dial()
        status, headers, body = await refused.ask(get())
        assert (status, headers["retry-after"], headers["connection"]) == (503, "2", "close")
        assert json.loads(body)["errors"][0]["code"] == "UNAVAILABLE"
        assert await asyncio.wait_for(refused.is_closed(), LONG)
        handler.release.set()
        assert (await lines[0].answer())[0] == 200
        assert (await (await dial()).ask(get()))[0] == 200


async def test_a_refusal_is_in_the_form_that_aws_clients_read() -> None:
    handler = FakeHandler()
    async with serving(handler, connections=1) as (_, connect):
        await full(handler, connect, 1)
        status, _, body = await (await connect()).ask(get("/ecr", **{"X-Amz-Target": "a"}))
        assert (status, json.loads(body)["__type"]) == (503, "ServiceUnavailable")


async def test_probes_are_answered_when_no_connection_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = FakeHandler()
    async with serving(handler, connections=2) as (server, connect):

        async def healthy(request: web.Request) -> web.StreamResponse:
            return web.Response(text="ok")

        route = server._route
        monkeypatch.setattr(
            server, "_route", lambda request: ("probe", healthy) if request.path == "/healthz" else route(request)
        )
        await full(handler, connect, 2)
        for _ in range(RESERVE):
            await connect()  # says nothing
        for _ in range(3):
            probe = await connect()
            status, headers, _ = await probe.ask(get("/healthz"))
            assert (status, headers["connection"]) == (200, "close")
            assert await asyncio.wait_for(probe.is_closed(), LONG)


async def test_a_kept_answer_is_no_way_around_the_limit() -> None:
    """A connection of the reserve is asked by the long way, whatever is known of its request."""
    handler = FakeHandler()
    async with serving(handler, connections=1) as (server, connect):
        await full(handler, connect, 1)
        monkey = await connect()
        server.response_cache.lookup = lambda key: pytest.fail("answered")  # type: ignore[method-assign]
        assert (await monkey.ask(get()))[0] == 503


async def test_a_trusted_proxy_is_no_greedy_client_and_its_clients_are_counted_each() -> None:
    """Connections of the proxy pass `connections_per_client`; requests at once of one client behind it do not."""
    handler = FakeHandler()
    async with serving(handler, connections_per_client=2, trusted_proxies=("127.0.0.1",)) as (_, connect):
        slow = get("/slow", **{"X-Forwarded-For": "198.51.100.1"})
        for _ in range(2):
            (await connect()).writer.write(slow)
        while len(handler.seen) < 2:  # noqa: ASYNC110 - the door sets one event for all
            await asyncio.sleep(0.01)
        third, other = await connect(), await connect()
        status, headers, _ = await third.ask(slow)
        assert (status, headers["retry-after"]) == (503, "2")
        assert (await third.ask(get(**{"X-Forwarded-For": "198.51.100.2"})))[0] == 200
        assert (await other.ask(get()))[0] == 200
        handler.release.set()


async def test_a_tls_handshake_counts_and_is_closed_for_a_new_connection(contexts: Contexts) -> None:
    """Connections that never say hello keep nobody out."""
    here, trust = contexts
    before = observe.metrics.http_rejected.labels("idle, closed for another")._value.get()
    async with serving(FakeHandler(), tls=here, connections=3) as (server, connect):
        silent = [await connect() for _ in range(3)]
        while len(server.limiter) < 3:  # noqa: ASYNC110 - nothing tells of a handshake that began
            await asyncio.sleep(0.01)
        line = await connect()
        await line.writer.start_tls(trust, server_hostname="127.0.0.1")
        assert (await line.ask(get()))[0] == 200
        assert await asyncio.wait_for(silent[0].is_closed(), LONG)
        assert len(server.limiter) == 3
    assert observe.metrics.http_rejected.labels("idle, closed for another")._value.get() == before + 1


async def test_a_tls_handshake_that_fails_or_takes_too_long_is_counted_no_more(contexts: Contexts) -> None:
    here, _ = contexts
    async with serving(FakeHandler(), tls=here, header_seconds=0.2) as (server, connect):
        silent, bad = await connect(), await connect()
        bad.writer.write(b"GET / HTTP/1.1\r\n\r\n")
        for line in (silent, bad):
            await asyncio.wait_for(line.is_closed(), LONG)
        while len(server.limiter):  # noqa: ASYNC110 - nothing tells of a handshake that ended
            await asyncio.sleep(0.01)


async def test_without_a_file_left_accepting_goes_on_a_moment_later(
    contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, trust = contexts
    monkeypatch.setattr(handshakes, "_PAUSE_SECONDS", 0.01)
    async with serving(FakeHandler(), tls=here) as (server, connect):
        listener = server._listeners[0]
        sock = listener._sock  # type: ignore[union-attr]

        class Full:
            tries = 0

            def accept(self) -> object:
                self.tries += 1
                if self.tries < 3:
                    raise OSError(24, "Too many open files")
                return sock.accept()

            def fileno(self) -> int:
                return sock.fileno()

        listener._sock = Full()  # type: ignore[union-attr]
        line = await connect()
        await line.writer.start_tls(trust, server_hostname="127.0.0.1")
        assert (await line.ask(get()))[0] == 200


@pytest.mark.parametrize(
    ("trusted", "headers", "client"),
    [
        pytest.param((), {"X-Forwarded-For": "198.51.100.1"}, "127.0.0.1", id="not-trusted"),
        pytest.param(("127.0.0.1",), {"X-Forwarded-For": "2001:db8::1"}, "2001:db8::/64", id="forwarded"),
        pytest.param(("127.0.0.1",), {}, "", id="forwards-none"),
    ],
)
async def test_a_requests_client_is_who_the_proxy_forwards_and_never_the_proxy(
    trusted: tuple[str, ...], headers: dict[str, str], client: str
) -> None:
    """A proxy that forwards nobody is many clients, of which none is counted."""
    handler = FakeHandler()
    async with serving(handler, trusted_proxies=trusted) as (_, connect):
        line = await connect()
        line.writer.write(get("/slow", **headers))
        await handler.entered.wait()
        assert client_of_request(handler.seen[0]) == client
        handler.release.set()
        await line.answer()
