"""Addresses: what is bound, what is warned about, what clients on this machine are told."""

from __future__ import annotations

import pytest
import structlog

from proxy.app import processes
from proxy.config import loader


def warned(hosts: list[str], **flags: object) -> list[str]:
    settings = loader.load(flags={f"server.{name}": value for name, value in flags.items()}, environ={})
    with structlog.testing.capture_logs() as logs:
        processes._warn(settings, hosts)
    return [entry["event"] for entry in logs if "plain HTTP" in entry["event"]]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::", "2001:db8::1"])
def test_plain_http_beyond_loopback_is_warned_about(host: str) -> None:
    """Passwords in the clear on a network are never silent."""
    assert len(warned([host])) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1"])
def test_plain_http_on_loopback_is_not(host: str) -> None:
    """The default is no cause for alarm."""
    assert warned([host]) == []


def test_tls_and_a_trusted_proxy_in_front_are_not() -> None:
    """Whoever ends TLS in front of this server has said so by trusted_proxies."""
    assert warned(["0.0.0.0"], tls_cert="a", tls_key="b") == []
    assert warned(["0.0.0.0"], trusted_proxies=["10.0.0.1"]) == []


def test_a_name_binds_all_its_addresses_and_is_what_clients_are_told() -> None:
    """localhost stays localhost in the lines that start-up prints."""
    settings = loader.load(flags={"server.listen": "localhost:0"}, environ={})
    listening = processes.bind(settings.server.listen)
    try:
        assert processes.reachable_address(settings, listening) == f"localhost:{listening[0].getsockname()[1]}"
        assert not any(sock.getblocking() for sock in listening)
    finally:
        for sock in listening:
            sock.close()


def test_an_address_of_nobody_here_is_refused_by_name() -> None:
    """The error says which address, not only that one was in use."""
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.7:5000"):
        processes.bind("192.0.2.7:5000")
