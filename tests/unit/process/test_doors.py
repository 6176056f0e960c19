"""What the settings make of hosts, and which door a path is."""

from __future__ import annotations

import pytest

from proxy import config
from proxy.doors import hosts_of, public_address, repository_uri


@pytest.mark.parametrize(
    ("given", "uri"),
    [
        ({}, "127.0.0.1:5000/{name}"),
        ({"server.url": "https://registry.example/"}, "registry.example/{name}"),
        ({"registry.suffix": "a.example"}, "{account}.dkr.ecr.us-east-1.a.example:5000/{name}"),
        (
            {"registry.suffix": "a.example", "server.listen": "0.0.0.0:443", "server.tls_self_signed": True},
            "{account}.dkr.ecr.us-east-1.a.example/{name}",
        ),
        (
            {"registry.suffix": "a.example", "server.listen": "0.0.0.0:8443", "server.url": "https://a.example"},
            "{account}.dkr.ecr.us-east-1.a.example/{name}",
        ),
    ],
)
def test_a_repository_is_where_docker_reaches_it(given: dict[str, object], uri: str) -> None:
    found = config.load(flags=given, environ={})
    assert repository_uri(found) == uri
    if found.registry.suffix:
        assert (
            hosts_of(found).account_of(uri.format(account="210987654321", name="x").partition("/")[0]) == "210987654321"
        )


def test_without_a_configured_address_it_is_where_the_server_listens() -> None:
    given = {"server.listen": "127.0.0.1:5001", "server.tls_self_signed": True}
    assert public_address(config.load(flags=given, environ={})) == "https://127.0.0.1:5001"
