"""`[[peers]]`: what an entry may say, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.loader import ConfigError, describe, load
from proxy.config.peer_settings import PeerSetting

SECRET = "a secret that is nowhere shown"
WHOLE = f'''
region = "eu-west-1"
url = "https://registry.eu.example/"
access_key_id = "AKIAEXAMPLEEXAMPLE12"
secret_access_key = "{SECRET}"
'''


def written(folder: Path, *tables: str) -> Path:
    path = folder / "wharfage.toml"
    path.write_text("".join(f"[[peers]]\n{table}\n" for table in tables))
    return path


def test_an_entry_is_read_with_its_defaults_and_its_secret_is_not_shown(tmp_path: Path) -> None:
    accounts = 'accounts = {"111122223333" = "444455556666"}'
    config = load(written(tmp_path, WHOLE + accounts), environ={})
    [peer] = config.peers.entries
    assert peer == PeerSetting(
        "eu-west-1", "https://registry.eu.example", "AKIAEXAMPLEEXAMPLE12", SECRET, accounts=peer.accounts
    )
    assert [peer.account_there(each) for each in ("111122223333", "222233334444")] == ["444455556666", "222233334444"]
    assert SECRET not in describe(config) + repr(config)
    assert "eu-west-1" in describe(config)
    assert load(environ={}).peers.entries == ()


@pytest.mark.parametrize("url", ["http://127.0.0.1:5000", "http://localhost:5000", "http://[::1]:5000"])
def test_http_is_taken_on_loopback(tmp_path: Path, url: str) -> None:
    config = load(written(tmp_path, WHOLE.replace("https://registry.eu.example/", url)), environ={})
    assert config.peers.entries[0].url == url


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        (WHOLE.replace("https", "http"), "http:// is not encrypted"),
        (WHOLE.replace("https://registry.eu.example/", "http://127.evil.example"), "http:// is not encrypted"),
        (WHOLE.replace("https://", "https://user:word@"), "without user, password or path"),
        (WHOLE.replace("eu-west-1", "EU West"), "must be 2 to 25 of"),
        (WHOLE.replace("access_key_id", "key_id", 1), "'key_id' is no key of a peer"),
        (WHOLE.replace(SECRET, ""), "a peer needs secret_access_key"),
        (WHOLE + "connections = 0", "connections must be a whole number between 1 and 1000"),
        (WHOLE + "bytes_per_second = true", "bytes_per_second must be a whole number"),
        (WHOLE + "ca_bundle = 7", "ca_bundle must be a file's name"),
        (WHOLE + 'accounts = {"1" = "2"}', "accounts must be a table such as"),
        (WHOLE + "[[peers]]" + WHOLE, "eu-west-1: a region has one peer"),
    ],
)
def test_what_is_wrong_is_said_and_the_secret_is_not(tmp_path: Path, table: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(written(tmp_path, table), environ={})
    assert complaint in str(refused.value)
    assert SECRET not in str(refused.value)


def test_senders_are_arns_of_users_and_roles() -> None:
    arn = "arn:aws:iam::123456789012:user/replicator"
    assert load(environ={"WHARFAGE_REPLICATION_SENDERS": arn}).replication.senders == (arn,)
    with pytest.raises(ConfigError, match="not the ARN of a user or a role"):
        load(environ={"WHARFAGE_REPLICATION_SENDERS": "replicator"})


def test_a_peer_of_the_own_region_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[registry\] region"):
        load(written(tmp_path, WHOLE), environ={"WHARFAGE_REGISTRY_REGION": "eu-west-1"})
