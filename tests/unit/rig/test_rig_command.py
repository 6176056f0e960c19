"""The command line: what it refuses before anything is sent, and that no secret leaves it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from proxy.cli.main import main
from proxy.rig import running
from proxy.rig.running import Load
from support.programs import ROOT

SECRET = "hunter2-and-more"


def rig(*words: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["rig", *words], input=stdin)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Load, dict[str, Any]]]:
    """What would be run, and with what; nothing is."""
    asked: list[tuple[Load, dict[str, Any]]] = []

    def run(load: Load, wanted: running.ReportOptions, **more: Any) -> int:
        asked.append((load, {"wanted": wanted, **more}))
        return 0

    monkeypatch.setattr(running, "run", run)
    return asked


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["push"], "ADDRESS"),
        (["push", "registry.example/x"], "without a path"),
        (["push", "http://registry.example"], "--plain-http"),
        (["push", "r.example", "--size", "1MB"], "--size: '1MB' is no size"),
        (["push", "r.example", "--layers", "0"], "--layers"),
        (["push", "r.example", "--shared", "nan"], "NaN"),
        (["push", "r.example", "--rate", "inf"], "--rate"),
        (["push", "r.example", "--duration", "0"], "--duration"),
        (["push", "r.example", "--prefix", "UPPER"], "--prefix"),
        (["push", "r.example", "--prefix", ""], "--prefix"),
        (["push", "r.example", "--username", "me"], "go together"),
        (["push", "r.example", "--allow-host", "https://other.example"], "--allow-host"),
        (["push", "r.example", "--password-stdin"], "go together"),
        (["push", "r.example", "--ca", "nowhere.pem"], "nowhere.pem"),
        (["pull", "r.example", "--tags", "v1"], "name it"),
        (["pull", "r.example", "--repository", "a", "--tags", "-"], "--tags"),
        (["pull", "r.example", "--repository", "A"], "--repository"),
        (["pull", "r.example", "--ranges", "0"], "--ranges"),
        (["mix", "r.example", "--weights", "steal=1"], "--weights"),
        (["push", "r.example", "--json", "no/such/folder.json"], "no such directory"),
        (["push", "r.example", "--picture", "a.pdf"], ".png or .svg"),
    ],
)
def test_wrong_settings_end_with_status_2_and_their_name_before_anything_is_sent(words: list[str], says: str) -> None:
    done = rig(*words)
    assert done.exit_code == 2, done.output
    assert says in done.output


def test_a_picture_that_cannot_be_drawn_is_known_before_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = rig("push", "127.0.0.1:1", "--picture", "a.png")
    assert (done.exit_code, done.output) == (2, "wharfage: --picture needs matplotlib: pip install 'wharfage[rig]'\n")


def test_an_authority_that_is_none_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("none")
    done = rig("push", "127.0.0.1:1", "--ca", str(tmp_path / "ca.pem"))
    assert done.exit_code == 2
    assert "ca.pem" in done.output


@pytest.mark.parametrize("given", [b"", b"\n", b"\xff\xfe\n", b"x" * 70_000])
def test_a_password_that_is_none_is_refused(given: bytes) -> None:
    done = rig("push", "127.0.0.1:1", "--username", "me", "--password-stdin", stdin=given)
    assert done.exit_code == 2
    assert "standard input" in done.output


def test_the_password_reaches_the_load_and_no_setting(loads: list[tuple[Load, dict[str, Any]]]) -> None:
    done = rig("push", "r.example", "--username", "me", "--password-stdin", stdin=f"{SECRET}\r\nmore\n")
    [(load, more)] = loads
    assert (done.exit_code, load.username, more["password"]) == (0, "me", SECRET)
    assert SECRET not in repr(load)
    assert "me" not in load.settings.values()


@pytest.mark.parametrize(
    ("words", "count", "duration", "concurrency"),
    [
        (["push", "r.example"], 10, None, 4),
        (["push", "r.example", "--duration", "5"], None, 5.0, 4),
        (["push", "r.example", "--rate", "5", "--count", "3"], 3, None, 256),
        (["pull", "r.example", "--images", "7"], 7, None, 4),
        (["pull", "r.example", "--repository", "a"], None, None, 4),
        (["mix", "r.example"], None, 30.0, 4),
        (["mix", "r.example", "--count", "5", "--concurrency", "9"], 5, None, 9),
    ],
)
def test_a_load_has_an_end(
    loads: list[tuple[Load, dict[str, Any]]],
    words: list[str],
    count: int | None,
    duration: float | None,
    concurrency: int,
) -> None:
    """A pull of a whole repository has as many operations as that lists."""
    assert rig(*words).exit_code == 0
    [(load, _)] = loads
    assert (load.pace.count, load.pace.duration, load.pace.concurrency) == (count, duration, concurrency)


def test_settings_repeat_what_decides_the_load(loads: list[tuple[Load, dict[str, Any]]]) -> None:
    assert rig("push", "r.example", "--layers", "3", "--shared", "0.5", "--quiet", "--json", "x.json").exit_code == 0
    [(load, _)] = loads
    assert load.shape.shared == 2
    assert load.settings["layers"] == 3
    assert set(load.settings) == {
        "backlog", "chunked", "concurrency", "count", "duration", "layers", "parallel", "prefix", "ramp", "rate",
        "repositories", "shared", "size", "spacing", "timeout",
    }  # fmt: skip


def test_the_help_of_the_command_loads_nothing_of_the_rig() -> None:
    """So that every other command stays quick."""
    script = (
        "import sys, proxy.cli.main; sys.exit(any(m.startswith('proxy.rig.') or m == 'aiohttp' for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0
