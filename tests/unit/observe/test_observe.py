"""The log and the metrics: one table, both directions; no secrets; counts that survive a process."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

import proxy
from proxy import observe
from support.logs import log_to

ROOM = Path(proxy.__file__).parent
SOURCES = {
    path: path.read_text()
    for path in ROOM.rglob("*.py")
    if path.parent != ROOM / "observe" and "migrations" not in path.parts
}
TABLE = vars(observe.Metrics(CollectorRegistry()))


def test_every_metric_in_the_table_is_used() -> None:
    """A row that nothing counts is a promise to operators that nobody keeps."""
    used = {name for text in SOURCES.values() for name in re.findall(r"\bmetrics\.(\w+)", text)}
    assert set(TABLE) - used == set()


def test_every_metric_used_is_in_the_table() -> None:
    """Nothing counts what operators cannot look up."""
    used = {
        (name, path.name) for path, text in SOURCES.items() for name in re.findall(r"\bobserve\.metrics\.(\w+)", text)
    }
    assert used
    assert {(name, where) for name, where in used if name not in TABLE} == set()


def test_metrics_are_made_nowhere_else() -> None:
    """prometheus_client is imported by observe alone."""
    assert [
        path.name for path, text in SOURCES.items() if re.search(r"^\s*(import|from) prometheus_client", text, re.M)
    ] == []


def test_every_metric_is_ours_by_name() -> None:
    """All names begin with wharfage_, so that they can be found among others."""
    assert {metric._name for metric in TABLE.values() if not metric._name.startswith("wharfage_")} == set()


@pytest.mark.parametrize("key", ["password", "secret_access_key", "Authorization", "session_token", "credentials"])
def test_a_value_under_a_secret_name_is_not_written(key: str) -> None:
    """Whoever logs a secret by its name logs stars."""
    assert observe.hide_secrets(None, "info", {key: "hunter2", "event": "x"}) == {key: "***", "event": "x"}


def test_a_json_line_has_level_time_and_facts() -> None:
    """JSON lines are whole objects, one a line, also for the standard library's loggers."""
    out = run(
        "import logging; observe.configure_log('json', 'info'); observe.begin_request('id-1');"
        "observe.note(repository='a/b'); observe.log.info('hello', bytes=3);"
        "observe.log.debug('unheard'); logging.getLogger('aiohttp.server').error('from %s', 'aiohttp')"
    )
    first, second = (json.loads(line) for line in out.splitlines())
    assert {
        "event": "hello",
        "bytes": 3,
        "repository": "a/b",
        "request_id": "id-1",
        "level": "info",
    }.items() <= first.items()
    assert first["timestamp"].endswith("Z")
    assert (second["event"], second["logger"], second["level"]) == ("from aiohttp", "aiohttp.server", "error")


def test_a_console_line_is_for_people() -> None:
    """The console form is no JSON and has the sentence first."""
    out = io.StringIO()
    with log_to(out, "console"):
        observe.log.info("hello", bytes=3)
    assert "hello" in out.getvalue()
    assert "bytes=3" in out.getvalue()


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_request_line_is_that_of_the_log_itself(form: str) -> None:
    """Laid out before, it has the same members in the same order, stars for secrets, and its own id and duration."""
    facts = {"door": "oci", "path": '/v2/"ü', "status": 200, "a_token": "hunter2", "none": None}
    out = io.StringIO()
    with log_to(out, form):
        observe.log.info("request", request_id="a" * 32, **facts, seconds=6e-05)
        line = observe.RequestLine({"request_id": "b" * 32, **facts})
        line.write("a" * 32, 0.0000604)
        line.leave("a" * 32, 0.00006)
        observe.write_left()
    assert "hunter2" not in out.getvalue()
    lines = [re.sub(r"20\d\d-\d\d-\d\d[T ][0-9:.]+Z?", "now", each) for each in out.getvalue().splitlines()]
    assert lines == lines[:1] * 3


class _Stream(io.StringIO):
    """Keeps what each write brought."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return super().write(text)


def test_lines_that_are_left_come_before_the_next_and_none_is_cut_in_two() -> None:
    """A pipe takes 4,096 bytes in one piece: no write has more, unless one line has."""
    out = _Stream()
    with log_to(out, "json"):
        paths = ["/1", "/2", "/" + "ü" * 900, "/" + "x" * 1500, "/" + "x" * 5000, "/6"]
        for path in paths:
            observe.RequestLine({"path": path}).leave("a" * 32, 0.1)
        observe.log.info("and then")
        observe.RequestLine({"path": "/7"}).leave("a" * 32, 0.1)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [each.get("path") for each in lines] == [*paths, None]
    assert all(each.endswith("\n") for each in out.writes)
    assert [len(each) for each in out.writes if len(each.encode()) > 4096 and each.count("\n") > 1] == []
    assert len(out.writes) < len(lines)


@given(st.lists(st.floats(0, 4000, allow_nan=False), min_size=1, max_size=30))
def test_what_is_tallied_is_what_was_counted_one_by_one(seconds: list[float]) -> None:
    table = observe.Metrics(registry := CollectorRegistry())
    for each in seconds:
        table.http_request_seconds.labels("by one").observe(each)
    counter = table.http_requests.labels("d", "GET", "200")
    tally = observe.Tally((counter,), table.http_request_seconds.labels("tallied"))
    for half in (seconds[::2], seconds[1::2]):
        assert [tally.add(each) for each in half] == [number == 0 for number in range(len(half))]
        tally.settle()
    assert counter._value.get() == len(seconds)
    samples = [
        each for metric in registry.collect() for each in metric.samples if each.name.endswith(("bucket", "count"))
    ]
    found = {
        door: [(each.name, each.labels.get("le"), each.value) for each in samples if each.labels.get("door") == door]
        for door in ("by one", "tallied")
    }
    assert found["tallied"] == found["by one"]


def test_counts_of_all_processes_are_summed_and_survive_them() -> None:
    """A worker that dies leaves its counts, its successor goes on from them, and its levels are forgotten."""
    out = run(
        """
import os
observe.share_metrics("supervisor", ["worker0"])
for life in range(2):
    if os.fork() == 0:
        observe.name_process("worker0")
        observe.metrics.frames_rejected.inc()
        observe.metrics.http_requests_running.inc()
        os._exit(0)
    os.wait()
    observe.forget_process("worker0")
observe.metrics.frames_rejected.inc()
print(observe.render_metrics().decode())
"""
    )
    assert "wharfage_frames_rejected_total 3.0" in out
    assert "wharfage_http_requests_running 0.0" in out


def test_more_labels_than_a_file_holds_at_first_are_counted() -> None:
    """Also by a process that reads while they come."""
    out = run(
        """
observe.share_metrics("supervisor", ["worker0"])
for number in range(2000):
    observe.metrics.http_requests.labels("oci", "GET", str(number)).inc()
print(observe.render_metrics().decode())
"""
    )
    assert len(re.findall(r"^wharfage_http_requests_total{.*} 1\.0$", out, re.M)) == 2000


def test_a_process_name_that_would_split_a_file_name_is_refused() -> None:
    """prometheus_client parses its file names at underscores."""
    with pytest.raises(ValueError, match="underscore"):
        observe.name_process("worker_0")


def run(program: str) -> str:
    """What a fresh Python prints: sharing metrics and configuring the log change the whole process."""
    done = subprocess.run(
        [sys.executable, "-c", f"from proxy import observe\n{program}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOM.parent,
    )
    return done.stdout or done.stderr
