"""deploy/systemd: units that systemd takes, that stop in the order that a drain needs, and that may touch little."""

from __future__ import annotations

import asyncio
import configparser
import re
import shlex
import sys
from pathlib import Path

import pytest

from proxy.config import loader, settings
from proxy.runtime.supervisor import KILL_AFTER
from support.programs import ROOT, Daemon, run
from support.registry import Registry
from support.server import Server, free_port

UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
SERVING = [path for path in UNITS if "backup" not in path.stem]
unit = pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
serving = pytest.mark.parametrize("path", SERVING, ids=lambda path: path.stem)


def read(path: Path) -> configparser.RawConfigParser:
    """The unit; of a key that stands twice the last one, which is all that these tests ask for."""
    found = configparser.RawConfigParser(strict=False, comment_prefixes="#", delimiters="=")
    found.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way to keep letters' case
    found.read_string(path.read_text())
    return found


@pytest.mark.needs("systemd-analyze")
@unit
def test_systemd_finds_no_fault_in_it(path: Path, tmp_path: Path) -> None:
    """`systemd-analyze verify` says nothing, of the unit with a program that this machine has."""
    copy = tmp_path / path.name
    copy.write_text(path.read_text().replace("/opt/wharfage/bin/wharfage", "/bin/true"))
    done = run("systemd-analyze", "verify", copy)
    assert done.stdout + done.stderr == ""


@pytest.mark.needs("systemd-analyze")
@unit
def test_it_may_touch_little(path: Path) -> None:
    """systemd's own measure of exposure, 0 to 10, is below 2."""
    told = run("systemd-analyze", "security", "--offline=true", path).stdout
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", told)
    assert exposure
    assert float(exposure.group(1)) < 2


@unit
def test_its_command_and_variables_are_ones_that_the_program_has(path: Path, tmp_path: Path) -> None:
    """The command's flags are known to it, and every WHARFAGE_ variable is a setting."""
    service = read(path)["Service"]
    words = shlex.split(service["ExecStart"])
    assert len(words) == len(service["ExecStart"].split())
    assert words[0] == "/opt/wharfage/bin/wharfage"
    helped = run(sys.executable, "-m", "proxy", words[1], "--help").stdout
    assert all(word in helped for word in words[2:] if word.startswith("--"))
    variables = dict(shlex.split(line)[0].split("=", 1) for line in [service.get("Environment", "")] if line)
    assert loader.load(environ=variables).warnings == ()


@serving
def test_it_is_given_the_time_that_a_drain_takes(path: Path) -> None:
    """TimeoutStopSec is longer than delay, drain and both groups' grace; only the parent gets the signal."""
    service = read(path)["Service"]
    assert service["KillMode"] == "mixed"
    delay = float(service.get("Environment", "=0").rpartition("=")[2])
    assert int(service["TimeoutStopSec"]) > delay + settings.ServerSettings().drain_seconds + 2 * KILL_AFTER


@pytest.mark.needs("systemd-analyze")
def test_the_timer_starts_the_backup_each_night(tmp_path: Path) -> None:
    """systemd takes both, says when the next one is, and the backup may write where it is to."""
    for name in ("wharfage-backup.timer", "wharfage-backup.service"):
        text = (UNITS[0].parent / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/wharfage/bin/wharfage", "/bin/true"))
    done = run("systemd-analyze", "verify", tmp_path / "wharfage-backup.timer")
    assert done.stdout + done.stderr == ""
    timer, backup = read(UNITS[0].parent / "wharfage-backup.timer"), read(UNITS[0].parent / "wharfage-backup.service")
    assert "Next elapse" in run("systemd-analyze", "calendar", timer["Timer"]["OnCalendar"]).stdout
    assert shlex.split(backup["Service"]["ExecStart"])[2] == backup["Service"]["ReadWritePaths"]


def test_all_units_are_held_alike() -> None:
    """What was thought of for one is in force for all."""
    blocks = {path.read_text().partition("# What it may touch")[2].partition("\n[Install]")[0] for path in UNITS}
    assert len(UNITS) == 4
    assert len(blocks) == 1
    assert all(blocks)


AS_ROOT = {"fchown"}  # SQLite's, when it runs as root, as here; the units' user is none


def allowed_calls() -> set[str]:
    """System calls that the units' filters let through, groups resolved by systemd itself."""
    told = run("systemd-analyze", "syscall-filter").stdout
    groups = {
        block.split(None, 1)[0]: [word for word in block.split()[1:] if re.fullmatch(r"@?[a-z0-9_-]+", word)]
        for block in re.split(r"\n(?=@)", re.sub(r"#.*", "", told))
        if block.strip()
    }

    def calls(group: str) -> set[str]:
        found: set[str] = set()
        for word in groups[group]:
            found |= calls(word) if word.startswith("@") else {word}
        return found

    return calls("@system-service") - calls("@privileged")


@pytest.mark.needs("systemd-analyze", "strace")
async def test_the_program_asks_the_kernel_for_nothing_that_the_units_forbid(tmp_path: Path) -> None:
    """A start, a push, a pull and a stop under strace: every call passes the units' filter."""
    address, calls = f"127.0.0.1:{free_port()}", tmp_path / "calls"
    serve: list[str | Path] = [
        sys.executable,
        "-m",
        "proxy",
        "serve",
        "--data",
        tmp_path / "data",
        "--listen",
        address,
        "--workers",
        "1",
    ]
    traced = Daemon.start(["strace", "-f", "-qq", "-o", calls, *serve], tmp_path / "log")
    server = Server(traced, address, tmp_path / "data")
    try:
        await asyncio.to_thread(traced.wait_until, server.is_ready)
        async with Registry(server.url, await asyncio.to_thread(server.password)) as registry:
            await registry.push_image("team/app", "v1", [b"layer" * 100_000])
            await registry.pull_image("team/app", "v1")
        for process in await asyncio.to_thread(server.processes):
            if process.ppid() == traced.process.pid:
                process.terminate()
        assert await asyncio.to_thread(traced.process.wait, 30) == 0
    finally:
        traced.kill()
    made = set(re.findall(r"^\d+ +([a-z0-9_]+)\(", await asyncio.to_thread(calls.read_text), re.MULTILINE))
    assert {"read", "mmap", "fsync"} <= made
    assert made - AS_ROOT <= allowed_calls()
