"""What the settings make of hosts, and which door a path is."""

from __future__ import annotations

import pytest

from proxy.app.router import hosts_of, public_address, rates_of, repository_uri
from proxy.config import loader
from proxy.config.loader import ConfigError
from proxy.model.quotas import ECR_RATES, Rate


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
    found = loader.load(flags=given, environ={})
    assert repository_uri(found) == uri
    if found.registry.suffix:
        assert (
            hosts_of(found).account_of(uri.format(account="210987654321", name="x").partition("/")[0]) == "210987654321"
        )


def test_without_a_configured_address_it_is_where_the_server_listens() -> None:
    given = {"server.listen": "127.0.0.1:5001", "server.tls_self_signed": True}
    assert public_address(loader.load(flags=given, environ={})) == "https://127.0.0.1:5001"


def test_rates_are_off_and_the_preset_is_ecrs() -> None:
    assert rates_of(loader.load(environ={})) == {}
    assert rates_of(loader.load(flags={"quotas.preset": "ecr"}, environ={})) == ECR_RATES


def test_a_rate_of_ones_own_goes_before_the_presets() -> None:
    """With a second's worth as its burst, and one request at least; `none` lifts it."""
    rates = ("PutImage=none", "BatchGetImage=20", "ListImages=0.25", "UploadLayerPart=5/50")
    found = rates_of(loader.load(flags={"quotas.preset": "ecr", "quotas.rates": rates}, environ={}))
    own = {"BatchGetImage": Rate(20, 20), "ListImages": Rate(0.25, 1), "UploadLayerPart": Rate(5, 50)}
    assert found == {name: rate for name, rate in ECR_RATES.items() if name != "PutImage"} | own


def test_a_rate_of_no_operation_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"\[quotas\] rates: PutImages=1: PutImages is no operation"):
        rates_of(loader.load(flags={"quotas.rates": ("PutImages=1",)}, environ={}))
