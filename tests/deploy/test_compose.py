"""deploy/compose.yaml as docker-compose reads it: every setting is one, every secret must be given, the parts fit."""

from __future__ import annotations

import re
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.runtime.supervisor import KILL_AFTER
from support.deployed_nginx import CONFIGURATION
from support.deployed_settings import settings_of
from support.programs import ROOT, run

pytestmark = pytest.mark.needs("docker-compose")

FILE = ROOT / "deploy" / "compose.yaml"
PROXIES, SERVICES = ("proxy1", "proxy2", "proxy3"), ("metadata1", "metadata2")


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .env of deploy/secrets.sh."""
    file = tmp_path_factory.mktemp("compose") / ".env"
    file.write_text(run("sh", ROOT / "deploy" / "secrets.sh", "https://registry.example.com").stdout)
    return file


@pytest.fixture(scope="module")
def whole(secrets: Path) -> dict[str, Any]:
    """The file with everything filled in."""
    found: dict[str, Any] = yaml.safe_load(run("docker-compose", "--env-file", secrets, "-f", FILE, "config").stdout)
    return found


@pytest.fixture(scope="module")
def services(whole: dict[str, Any]) -> dict[str, Any]:
    services: dict[str, Any] = whole["services"]
    return services


def seconds(text: str) -> float:
    """Of 90s or 1m30s."""
    return sum(
        float(number) * {"h": 3600, "m": 60, "s": 1}[unit] for number, unit in re.findall(r"([\d.]+)([hms])", text)
    )


@pytest.mark.parametrize("name", [*PROXIES, *SERVICES, "backup"])
def test_every_variable_is_a_setting_and_all_go_together(services: dict[str, Any], name: str) -> None:
    """The program itself takes them: no unknown name, no bad value, none that needs another."""
    assert settings_of(services[name]["environment"]).server.url == "https://registry.example.com"


def test_each_secret_must_be_given(secrets: Path, tmp_path: Path) -> None:
    """Without any one of the values that secrets.sh makes, docker-compose refuses and names the remedy."""
    lines = secrets.read_text().splitlines()
    assert len(lines) == 7
    for missing in lines:
        partial = tmp_path / ".env"
        partial.write_text("\n".join(line for line in lines if line != missing))
        refused = run("docker-compose", "--env-file", partial, "-f", FILE, "config", ok=False)
        assert "make .env first" in refused.stderr


def test_no_two_secrets_are_alike(secrets: Path) -> None:
    """Each value is its own, and another one the next time."""
    again = run("sh", ROOT / "deploy" / "secrets.sh", "https://registry.example.com").stdout.split()
    values = [line.partition("=")[2] for line in [*secrets.read_text().split(), *again] if "_URL=" not in line]
    assert len(set(values)) == len(values) == 12
    assert all(len(value) >= 20 for value in values)


def test_nginx_trusts_and_is_trusted_by_the_right_addresses(services: dict[str, Any]) -> None:
    """The nodes that nginx.conf names are the services here; the proxy that they believe is nginx."""
    named = re.findall(r"^ +server (\w+):5000 ", CONFIGURATION.read_text(), re.MULTILINE)
    assert tuple(named) == PROXIES
    own = services["nginx"]["networks"]["inside"]["ipv4_address"]
    assert {services[name]["environment"]["WHARFAGE_SERVER_TRUSTED_PROXIES"] for name in PROXIES} == {own}


def test_metadata_services_say_where_the_other_one_may_ask_them(services: dict[str, Any]) -> None:
    """By its own name, at the port that it listens on, in a network that both are in: else there is no outage_grace."""
    for name in SERVICES:
        port = services[name]["command"][-1].rpartition(":")[2]
        assert services[name]["environment"]["WHARFAGE_METADATA_ADVERTISE"] == f"http://{name}:{port}"
        assert "inside" in services[name]["networks"]


def test_no_fixed_address_is_given_to_another_container(whole: dict[str, Any]) -> None:
    """Fixed ones are all different, in the subnet, and outside of the range that the rest is served from."""
    [pool] = whole["networks"]["inside"]["ipam"]["config"]
    networks = [service["networks"]["inside"] for service in whole["services"].values()]
    fixed = [ip_address(each["ipv4_address"]) for each in networks if each]
    assert len(set(fixed)) == len(fixed) == 1 + len(PROXIES) + len(SERVICES)
    assert all(each in ip_network(pool["subnet"]) for each in fixed)
    assert not any(each in ip_network(pool["ip_range"]) for each in fixed)


def test_each_node_is_given_the_time_that_its_drain_takes(services: dict[str, Any]) -> None:
    """stop_grace_period is longer than delay, drain and the parent's patience; nginx waits as long as its nodes."""
    for name in PROXIES:
        told = services[name]["environment"]
        drain = float(told["WHARFAGE_SERVER_DRAIN_DELAY_SECONDS"]) + float(told["WHARFAGE_SERVER_DRAIN_SECONDS"])
        assert seconds(services[name]["stop_grace_period"]) > drain + KILL_AFTER


def test_our_containers_have_no_rights_and_share_the_keys(services: dict[str, Any]) -> None:
    """Read-only root, no capability; the master keys are one volume, the data directory is each one's own."""
    data = set()
    for name in (*PROXIES, *SERVICES):
        service = services[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        mounts = dict(volume.split(":")[1::-1] for volume in service["volumes"])
        assert mounts["/data/keys"] == "keys"
        data.add(mounts["/data"])
    assert len(data) == len(PROXIES) + len(SERVICES)


def test_a_backup_is_made_when_asked_for_with_the_keys_and_the_rows(services: dict[str, Any]) -> None:
    """Not by `up`; its flags are the program's, its files are where they are mounted; it asks the running services."""
    backup = services["backup"]
    assert backup["profiles"] == ["backup"]
    assert backup["read_only"] is True
    words = backup["command"]
    helped = run(sys.executable, "-m", "proxy", words[0], "--help").stdout
    assert all(word in helped for word in words if word.startswith("--"))
    mounts = {volume.split(":")[1] for volume in backup["volumes"]}
    assert mounts == {words[1], words[words.index("--passphrase-file") + 1], "/data/keys"}
    told = settings_of(backup["environment"]).metadata
    assert (told.url, bool(told.database)) == (settings_of(services["proxy1"]["environment"]).metadata.url, True)


def test_only_nginx_can_be_reached_from_outside(services: dict[str, Any]) -> None:
    """No database, store or node publishes a port."""
    assert [name for name, service in services.items() if service.get("ports")] == ["nginx"]
