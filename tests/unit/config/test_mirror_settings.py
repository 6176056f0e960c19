"""`[[mirror]]`: what an entry may say, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.loader import ConfigError, load
from proxy.config.mirror_settings import MirrorEntry

ROLE = "arn:aws:iam::123456789012:role/mirror"


def written(folder: Path, *tables: str) -> Path:
    path = folder / "wharfage.toml"
    path.write_text("".join(f"[[mirror]]\n{table}\n" for table in tables))
    return path


def test_each_table_is_an_entry(tmp_path: Path) -> None:
    names = 'host = "Docker.example"\nrule = "hub/"\nns = ["docker.io"]'
    first = f'{names}\nprincipal = "{ROLE}"\nnetworks = ["10.0.0.0/8"]'
    config = load(written(tmp_path, first, 'host = "docker.example"\nrule = "quay"\nns = ["quay.io"]'), environ={})
    assert config.mirror.entries == (
        MirrorEntry("docker.example", "hub", ("docker.io",), ROLE, ("10.0.0.0/8",)),
        MirrorEntry("docker.example", "quay", ("quay.io",)),
    )
    assert [entry.account for entry in config.mirror.entries] == ["123456789012", ""]
    assert load(environ={}).mirror.entries == ()


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ('rule = "hub"', "host must be"),
        ('host = "a"', "rule must be"),
        ('host = "https://a"\nrule = "hub"', "host must be"),
        ('host = "a"\nrule = "hub"\nnamespace = "x"', "'namespace' is no key"),
        ('host = "a"\nrule = "hub"\nns = "docker.io"', "ns must be a list"),
        (f'host = "a"\nrule = "hub"\nprincipal = "{ROLE}"', "principal and networks go together"),
        ('host = "a"\nrule = "hub"\nnetworks = ["10.0.0.0/8"]', "principal and networks go together"),
        (f'host = "a"\nrule = "hub"\nprincipal = "{ROLE}"\nnetworks = ["10.0.0.0/99"]', "10.0.0.0/99"),
        (f'host = "a"\nrule = "hub"\nprincipal = "{ROLE[:-7]}"\nnetworks = ["10.0.0.0/8"]', "must be a role"),
        ('host = "a"\nrule = "hub"\n[[mirror]]\nhost = "a"\nrule = "quay"', "two rules for requests of no ns"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, table: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, table), environ={})
    assert why in str(caught.value)


def test_one_table_is_no_list(tmp_path: Path) -> None:
    path = tmp_path / "wharfage.toml"
    path.write_text('[mirror]\nentries = ["a"]\n')
    with pytest.raises(ConfigError, match=r"\[\[mirror\]\]"):
        load(path, environ={})
