"""The report: its table, its JSON, its picture, and the progress before it."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from pathlib import Path

import pytest

from proxy.rig import live, picture, report
from proxy.rig.crew import Pace
from proxy.rig.errors import InvalidLoad
from proxy.rig.report import RunInfo, as_json, as_text
from proxy.rig.tally import LoadStatistics
from proxy.upstream.errors import RequestFailed
from support.virtual_time_loop import run, seconds

RUN = RunInfo("1.2.3", "mix", "https://registry.example", 7, {"layers": 10, "rate": None}, "duration", 1.5)


def tally() -> LoadStatistics:
    """10 s: 1,000 pulls of 1 to 1,000 ms and 20 MB each, 2 failures, 3 not started; one push that was interrupted."""
    now = 100.0
    told = LoadStatistics(lambda: now)
    for number in range(1, 1001):
        now = 100.0 + number / 100
        told.request("get-blob", number / 2000)
        told.succeeded("pull", number / 1000, 20_000_000)
    told.went_wrong("pull", RequestFailed("404 MANIFEST_UNKNOWN"))
    told.went_wrong("pull", RequestFailed("tls", "its certificate is not trusted"))
    for _ in range(3):
        told.not_started("pull")
    told.interrupted("push")
    return told


def test_the_table_has_rates_percentiles_and_failures_by_kind() -> None:
    lines = as_text(RUN, tally()).splitlines()
    assert lines[0] == "mix at https://registry.example, seed 7: 10.00 s, time over"
    [head, pull, push] = lines[2:5]
    assert head.split()[:5] == ["operation", "count", "failed", "/s", "GB/s"]
    assert " ".join(head.split()[5:]) == "p50 ms p90 ms p99 ms p99.9 ms max ms"
    assert pull.split()[:5] == ["pull", "1,000", "2", "100.0", "2.000"]
    told = [float(cell.replace(",", "")) for cell in pull.split()[5:]]
    assert told == pytest.approx([500, 900, 990, 999, 1000], rel=1 / 128)
    assert push.split() == ["push", "0", "0", "0.0", "0.000", "–", "–", "–", "–", "–"]
    assert lines[6].split()[0] == "request"
    assert lines[7].split()[:3] == ["get-blob", "1,000", "100.0"]
    assert lines[9:] == [
        "pull failed: 404 MANIFEST_UNKNOWN × 1",
        "pull failed: tls × 1 (its certificate is not trusted)",
        "pull not started, no room for it when it was due: 3",
        "push interrupted: 1",
    ]


def test_columns_stand_under_each_other() -> None:
    lines = as_text(RUN, tally()).splitlines()[2:5]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(("cpu", "busy"), [(9.5, True), (5.0, False)])
def test_a_rig_that_is_the_bottleneck_says_so(cpu: float, busy: bool) -> None:
    said = as_text(RunInfo("1", "pull", "http://a", 1, {}, "done", cpu), tally())
    assert ("The rig itself took a whole core" in said) is busy


def test_the_json_is_what_its_page_says() -> None:
    told = json.loads(json.dumps(as_json(RUN, tally())))
    fields = (report.__doc__ or "").partition("adds")[0].splitlines()
    documented = {line.split()[0] for line in fields if line.startswith("    ") and line[4] != " "}
    assert set(told) == documented
    assert (told["schema"], told["version"], told["command"], told["seed"]) == ("wharfage-rig/1", "1.2.3", "mix", 7)
    assert told["settings"] == {"layers": 10, "rate": None}
    assert (told["seconds"], told["ended"], told["client"]) == (10.0, "duration", {"cpu_seconds": 1.5})
    pull = told["operations"]["pull"]
    assert set(pull["latency"]) == {"mean", "p50", "p90", "p99", "p99.9", "max"}
    assert pull["latency"]["p99"] == pytest.approx(0.99, rel=1 / 128)
    assert (pull["latency"]["mean"], pull["latency"]["max"]) == (pytest.approx(0.5005), 1.0)
    assert (pull["count"], pull["failed"], pull["not_started"], pull["bytes"]) == (1000, 2, 3, 20_000_000_000)
    assert (pull["per_second"], pull["bytes_per_second"]) == (100.0, 2e9)
    assert pull["errors"] == {"404 MANIFEST_UNKNOWN": 1, "tls": 1}
    assert told["operations"]["push"]["latency"] is None
    assert told["said"] == {"tls": "its certificate is not trusted"}
    slices = told["timeline"]["slices"]
    assert (len(slices), sum(each["done"] for each in slices), told["timeline"]["slice_seconds"]) == (11, 1000, 1.0)


def test_a_run_in_which_nothing_ended_has_a_report_too() -> None:
    nothing = LoadStatistics(lambda: 5.0)
    assert "0.00 s" in as_text(RUN, nothing)
    assert as_json(RUN, nothing)["operations"] == {}


@pytest.mark.parametrize(("name", "begins"), [("a.png", b"\x89PNG\r\n"), ("a.svg", b"<?xml"), ("A.PNG", b"\x89PNG")])
def test_a_picture_is_what_its_name_says(tmp_path: Path, name: str, begins: bytes) -> None:
    picture.check(tmp_path / name)
    picture.draw(tmp_path / name, RUN, tally())
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_a_picture_names_what_it_shows(tmp_path: Path) -> None:
    picture.draw(tmp_path / "a.svg", RUN, tally())
    drawn = (tmp_path / "a.svg").read_text()
    for said in ("mix at https://registry.example, seed 7", "operations / s", "GB / s", "latency, ms", "99.9"):
        assert f"<!-- {said}" in drawn


def test_a_picture_of_nothing_is_drawn(tmp_path: Path) -> None:
    picture.draw(tmp_path / "a.png", RUN, LoadStatistics(lambda: 5.0))
    assert (tmp_path / "a.png").stat().st_size


def test_a_picture_without_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InvalidLoad, match=r"pip install 'wharfage\[rig\]'"):
        picture.check(tmp_path / "a.png")


def test_a_picture_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidLoad, match=r"\.png or \.svg"):
        picture.check(tmp_path / "a.pdf")


# ---- progress ------------------------------------------------------------------------------------------------------
class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watched(sink: io.StringIO, pace: Pace, monkeypatch: pytest.MonkeyPatch, *, quiet: bool = False) -> str:
    """What is told of 12 s with two pulls of 1 GB each second, one failure at the end."""
    monkeypatch.setattr(sys, "stderr", sink)

    async def all_of_it() -> None:
        told = LoadStatistics(seconds)
        async with live.shown("pull", told, pace, quiet=quiet):
            for _ in range(12):
                for _ in range(2):
                    told.succeeded("pull", 0.1, 10**9)
                await asyncio.sleep(1.0)
            told.went_wrong("pull", RequestFailed("timeout"))
            await asyncio.sleep(4.0)

    run(all_of_it())
    return sink.getvalue()


def test_without_a_terminal_a_line_is_told_each_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched(io.StringIO(), Pace(count=100), monkeypatch).splitlines() == [
        "pull: 5 s, 10 of 100 done, 2.0/s, 2.000 GB/s, 0 failed",
        "pull: 10 s, 20 of 100 done, 2.0/s, 2.000 GB/s, 0 failed",
        "pull: 15 s, 25 of 100 done, 0.8/s, 0.800 GB/s, 1 failed",
    ]


@pytest.mark.parametrize(("pace", "shows"), [(Pace(count=100), "25/100 op"), (Pace(duration=32), "16/32 s")])
def test_on_a_terminal_a_bar_is_drawn(pace: Pace, shows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = watched(Terminal(), pace, monkeypatch)
    last = drawn.rstrip().rpartition("\r")[2]
    assert shows in last
    assert last.endswith("0.0/s, 0.000 GB/s, 1 failed")
    assert drawn.count("\r") > 10


def test_who_asks_for_quiet_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched(Terminal(), Pace(count=100), monkeypatch, quiet=True) == ""
