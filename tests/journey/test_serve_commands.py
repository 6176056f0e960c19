"""The commands beside a server and without one: what they print, and the statuses they end with."""

from __future__ import annotations

import base64
import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from support.programs import run
from support.server import Server, status_of

Start = Callable[..., Server]
COMMANDS = [
    "serve",
    "metadata",
    "proxy",
    "check",
    "rewrap",
    "token",
    "key export",
    "key new",
    "version",
    "account create",
    "account list",
    "account close",
    "whoami",
    "policy explain",
    "rig push",
    "rig pull",
    "rig mix",
]


def wharfage(*words: str | Path, ok: bool = True, extra: dict[str, str] | None = None) -> CompletedProcess[str]:
    return run(sys.executable, "-m", "proxy", *words, ok=ok, extra=extra)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_teaches_with_an_example(command: str) -> None:
    """--help says what it does and shows a line to type."""
    said = wharfage(*command.split(), "--help").stdout
    assert "Example" in said
    assert f"wharfage {command}" in said


def test_help_lists_the_commands_and_how_to_begin() -> None:
    """The first help is enough to get a registry and log in."""
    said = wharfage("--help").stdout
    assert "wharfage serve" in said
    assert "docker login" in said
    assert all(f"\n  {command.split()[0]} " in said for command in COMMANDS)


def test_print_config_starts_nothing_and_masks_secrets(tmp_path: Path) -> None:
    """What is in force, with its sources; the directory is not even made."""
    file = tmp_path / "wharfage.toml"
    file.write_text("[registry]\nregion = 'eu-west-1'\n")
    given = {
        "WHARFAGE_SERVER_WORKERS": "3",
        "WHARFAGE_ACCESS_KEY_ID": "AKIA7777777777777777",
        "WHARFAGE_SECRET_ACCESS_KEY": "given-secret-of-forty-characters-exactly",
    }
    asked: list[str | Path] = ["serve", "--config", file, "--data", tmp_path / "data", "--print-config"]
    said = wharfage(*asked, extra=given).stdout
    lines = {line.partition(" =")[0]: line for line in said.splitlines() if " = " in line}
    [region] = [line for line in said.partition("[registry]")[2].splitlines() if line.startswith("region =")][:1]
    assert f"file {file}" in region
    assert "environment WHARFAGE_SERVER_WORKERS" in lines["workers"]
    assert "flag --data" in lines["data"]
    assert "default" in lines["listen"]
    assert given["WHARFAGE_SECRET_ACCESS_KEY"] not in said
    assert not (tmp_path / "data").exists()


def test_an_unknown_key_is_one_line_that_names_file_key_and_the_nearest(tmp_path: Path) -> None:
    """Status 2, no trace."""
    file = tmp_path / "wharfage.toml"
    file.write_text("[server]\nlisten = '127.0.0.1:1'\nworkres = 2\n")
    done = wharfage("serve", "--config", file, ok=False)
    assert done.returncode == 2
    assert done.stderr == f"wharfage: {file}: [server] workres: no such key; did you mean workers?\n"


def test_commands_without_a_data_directory_say_so(tmp_path: Path) -> None:
    """A mistyped --data makes no new registry."""
    for command in (["token"], ["check"], ["rewrap"], ["key", "export"]):
        done = wharfage(*command, "--data", tmp_path / "typo", ok=False)
        assert done.returncode == 1
        assert "no such data directory" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "typo").exists()


def test_token_is_good_whether_the_server_runs_or_not(start_server: Start) -> None:
    """Asked of the running server or made beside a stopped one, and after a rewrap too."""
    first = start_server(workers=1)
    running = wharfage("token", "--data", first.data).stdout.strip()
    assert ":" not in running
    assert status_of(first, running) == 200
    wharfage("rewrap", "--data", first.data)
    assert status_of(first, wharfage("token", "--data", first.data).stdout.strip()) == 200
    assert first.stop() == 0
    stopped = wharfage("token", "--data", first.data).stdout.strip()
    second = start_server(first.data, workers=1)
    assert [status_of(second, password) for password in (running, stopped)] == [200, 200]
    assert status_of(second, stopped[:-8] + "AAAAAAAA") == 401


def test_key_export_prints_the_active_key_first(start_server: Start) -> None:
    """A JSON list; rewrap puts a new key before the old one, which stays."""
    server = start_server(workers=1)
    before = json.loads(wharfage("key", "export", "--data", server.data).stdout)
    assert [set(key) for key in before] == [{"namespace", "name", "key_base64"}]
    assert len(base64.b64decode(before[0]["key_base64"])) == 32
    wharfage("rewrap", "--data", server.data)
    after = json.loads(wharfage("key", "export", "--data", server.data).stdout)
    assert len(after) == 2
    assert after[1:] == before
    assert stat.S_IMODE((server.data / "keys" / "master.json").stat().st_mode) == 0o600


def test_version_names_the_twin() -> None:
    """Support begins with which bytes run."""
    assert "pure bytes" in wharfage("version", extra={"WHARFAGE_PURE": "1"}).stdout
