"""Requests to where a tenant said reach public addresses and listed networks, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from proxy.upstream.guarded_connector import (
    AddressRefused,
    check_literal,
    guarded_connector,
    is_allowed,
    is_public,
    parse_networks,
)

PRIVATE = (
    "127.0.0.1",
    "10.1.2.3",
    "192.168.0.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fd00::1",
    "::ffff:127.0.0.1",
    "2002:7f00:1::",
    "64:ff9b::a00:1",
    "no-address",
)


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public_is_refused_unless_it_is_listed(address: str) -> None:
    assert not is_public(address)
    assert not is_allowed(address, ())


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:8.8.8.8"])
def test_public_addresses_take_encrypted_requests_and_no_plain_ones(address: str) -> None:
    assert is_allowed(address, ())
    assert not is_allowed(address, (), plain=True)


def test_a_listed_network_takes_both_also_by_an_address_that_maps_into_it() -> None:
    allowed = parse_networks(["10.0.0.0/8", "fd00::/8", "127.0.0.1"])
    for address in ("10.9.9.9", "::ffff:10.9.9.9", "fd00::7", "127.0.0.1"):
        assert is_allowed(address, allowed)
        assert is_allowed(address, allowed, plain=True)
    assert not is_allowed("127.0.0.2", allowed)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://localhost/x",
        "https://a.localhost./x",
        "https://[::1]:8443/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://127.1/",
        "http://93.184.215.14/",
    ],
)
def test_a_url_that_names_a_refused_address_is_refused_before_any_request(url: str) -> None:
    with pytest.raises(AddressRefused):
        check_literal(URL(url), parse_networks(["10.0.0.0/8"]))


@pytest.mark.parametrize("url", ["https://93.184.215.14/", "http://10.0.0.1/", "https://hooks.example/", "http://x/"])
def test_what_is_allowed_or_only_a_name_passes_the_first_look(url: str) -> None:
    check_literal(URL(url), parse_networks(["10.0.0.0/8"]))


class _Resolver(AbstractResolver):
    """Leads every name to the loopback, as a rebinding attacker's DNS does."""

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 6, "flags": 0}]

    async def close(self) -> None: ...


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(text="inside")

    server = web.Server(answer)
    runner = web.ServerRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


@pytest.mark.parametrize("host", ["127.0.0.1", "inside.example"])
async def test_the_address_that_is_connected_to_is_what_counts(port: int, host: str) -> None:
    connector = guarded_connector(())
    connector._resolver = _Resolver()
    async with aiohttp.ClientSession(connector=connector) as session:
        with pytest.raises(aiohttp.ClientConnectorError, match=r"127\.0\.0\.1 is not an address"):
            await session.get(f"http://{host}:{port}/")


async def test_a_listed_address_answers(port: int) -> None:
    connector = guarded_connector(parse_networks(["127.0.0.0/8"]), plain=True)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(f"http://127.0.0.1:{port}/") as answer,
    ):
        assert await answer.text() == "inside"
