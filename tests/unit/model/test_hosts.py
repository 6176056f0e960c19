"""Which registry a host name means, and where a registry is reached."""

from __future__ import annotations

import pytest

from proxy.model.errors import Code, Failure
from proxy.model.hosts import Hosts, port_of

DEFAULT, OTHER, REGION = "123456789012", "210987654321", "eu-west-1"
HOSTS = Hosts(DEFAULT, REGION, "registry.example")


@pytest.mark.parametrize(
    ("host", "account"),
    [
        (f"{OTHER}.dkr.ecr.{REGION}.registry.example", OTHER),
        (f"{OTHER}.dkr.ecr.{REGION}.registry.example:5000", OTHER),
        (f"{OTHER}.DKR.ECR.{REGION}.Registry.Example.", OTHER),
        (f"{OTHER}.dkr.ecr.{REGION}.registry.example.:443", OTHER),
        (f"{DEFAULT}.dkr.ecr.{REGION}.registry.example", DEFAULT),
        (f"api.ecr.{REGION}.registry.example", DEFAULT),
        (f"ecr.{REGION}.registry.example:5000", DEFAULT),
        (f"sts.{REGION}.registry.example", DEFAULT),
        ("sts.registry.example", DEFAULT),
        ("iam.registry.example", DEFAULT),
        ("registry.example", DEFAULT),
        ("localhost:5000", DEFAULT),
        ("127.0.0.1", DEFAULT),
        ("[::1]:5000", DEFAULT),
        ("", DEFAULT),
        (f"1{OTHER}.dkr.ecr.{REGION}.registry.example", DEFAULT),
        (f"x.{OTHER}.dkr.ecr.{REGION}.registry.example", DEFAULT),
        (f"{OTHER}.dkr.ecr.{REGION}.registry.example.evil", DEFAULT),
        (f"{OTHER}.dkr.ecr.{REGION}.registry-example", DEFAULT),
        (f"{OTHER}.dkr.ecr.{REGION}.amazonaws.com", DEFAULT),
        ("٢١٠٩٨٧٦٥٤٣٢١.dkr.ecr.eu-west-1.registry.example", DEFAULT),
    ],
)
def test_a_host_names_its_account_or_means_the_default_one(host: str, account: str) -> None:
    assert HOSTS.account_of(host) == account


@pytest.mark.parametrize(
    "name",
    [
        f"{OTHER}.dkr.ecr.us-east-1",
        "ecr.us-east-1",
        "api.ecr.us-east-1",
        "sts.us-east-1",
        "secretsmanager.us-east-1",
        "events.us-east-1",
    ],
)
def test_a_host_of_another_region_is_refused_in_words(name: str) -> None:
    with pytest.raises(Failure) as caught:
        HOSTS.account_of(f"{name}.registry.example:5000")
    assert caught.value.code is Code.INVALID_PARAMETER
    assert caught.value.message == "This server is the registry of the region eu-west-1, not of us-east-1."
    assert f"ecr.{REGION}.registry.example" in caught.value.hint


def test_without_a_suffix_every_host_is_the_default_account() -> None:
    for host in (f"{OTHER}.dkr.ecr.us-east-1.amazonaws.com", f"{OTHER}.dkr.ecr.{REGION}", "registry.example"):
        assert Hosts(DEFAULT, REGION).account_of(host) == DEFAULT


def test_a_registry_is_where_its_host_is_read_back() -> None:
    host = HOSTS.registry(OTHER, ":5000")
    assert host == f"{OTHER}.dkr.ecr.{REGION}.registry.example:5000"
    assert HOSTS.account_of(host) == OTHER


def test_a_certificate_holds_every_name_of_the_server_and_none_without_a_suffix() -> None:
    assert HOSTS.certified() == (
        f"*.dkr.ecr.{REGION}.registry.example",
        f"ecr.{REGION}.registry.example",
        f"api.ecr.{REGION}.registry.example",
        f"events.{REGION}.registry.example",
        f"sts.{REGION}.registry.example",
        f"secretsmanager.{REGION}.registry.example",
        "sts.registry.example",
        "iam.registry.example",
    )
    assert Hosts(DEFAULT, REGION).certified() == ()


@pytest.mark.parametrize(
    ("host", "port"),
    [("a:5000", ":5000"), ("[::1]:5000", ":5000"), ("a", ""), ("[::1]", ""), ("::1", ""), ("a:", ""), ("a:x", "")],
)
def test_the_port_of_a_host_is_told_with_its_colon(host: str, port: str) -> None:
    assert port_of(host) == port
