"""The report: a table for a terminal, and JSON for programs.

The JSON, all times in seconds, all sizes in bytes; nothing in it names the machine that the rig ran on, a user or a
secret, and a field that is added later leaves the others as they are:

    schema        "wharfage-rig/1"
    version       of the wharfage that made the load
    command       "push", "pull" or "mix"
    address       the registry's origin, such as "https://registry.example"
    seed          that the same command makes the same load from
    settings      what else decides the load, by the names of the flags (settings that are not in force: null)
    seconds       from the beginning to the end of the last operation
    ended         "done", "duration" (time was over) or "interrupted" (by hand)
    client        {"cpu_seconds"}: of the rig's own process; near `seconds`, the rig is what was measured
    operations    kind to {"count", "failed", "not_started", "interrupted", "bytes", "per_second", "bytes_per_second",
                  "latency", "errors"}; count: those that succeeded; errors: kind of failure to how many
    requests      name of a request to {"count", "latency"}: those that were answered as wanted
    said          kind of failure to the rig's own word about it
    timeline      {"slice_seconds", "slices": [{"done", "failed", "bytes"}, ...]}: operations that ended in each

`latency` is {"mean", "p50", "p90", "p99", "p99.9", "max"}, null where nothing succeeded: percentiles at most 1/128 too
high, never too low. Of an open loop it counts from when an operation was due.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from proxy.rig.histogram import Histogram
from proxy.rig.tally import LoadStatistics, Seen

SCHEMA = "wharfage-rig/1"
PERCENTS = (50.0, 90.0, 99.0, 99.9)
BUSY = 0.9  # of a core: from there on the rig itself may be what limits


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What was run, for the head of a report; `settings` by their flags' names, without any secret."""

    version: str
    command: str
    address: str
    seed: int
    settings: dict[str, Any]
    ended: str
    cpu_seconds: float


def as_json(run: RunInfo, tally: LoadStatistics) -> dict[str, Any]:
    """The report as the module's docstring has it."""
    return {
        "schema": SCHEMA,
        "version": run.version,
        "command": run.command,
        "address": run.address,
        "seed": run.seed,
        "settings": run.settings,
        "seconds": round(tally.seconds, 6),
        "ended": run.ended,
        "client": {"cpu_seconds": round(run.cpu_seconds, 3)},
        "operations": {kind: _operation(seen, tally.seconds) for kind, seen in sorted(tally.operations.items())},
        "requests": {
            name: {"count": latency.count, "latency": _latency(latency)}
            for name, latency in sorted(tally.requests.items())
        },
        "said": dict(sorted(tally.said.items())),
        "timeline": {
            "slice_seconds": tally.slice_seconds,
            "slices": [{"done": s.done, "failed": s.failed, "bytes": s.bytes} for s in tally.slices],
        },
    }


def as_text(run: RunInfo, tally: LoadStatistics) -> str:
    """The report for people: operations, the requests that they are made of, failures by kind."""
    seconds = tally.seconds
    lines = [f"{run.command} at {run.address}, seed {run.seed}: {seconds:.2f} s, {_ENDED[run.ended]}", ""]
    rows = [["operation", "count", "failed", "/s", "GB/s", *_LATENCIES]]
    for kind, seen in sorted(tally.operations.items()):
        counted = [f"{seen.latency.count:,}", f"{seen.failed:,}"]
        moved = [_rate(seen.latency.count, seconds, 1), _rate(seen.bytes / 1e9, seconds, 3)]
        rows.append([kind, *counted, *moved, *_millis(seen.latency)])
    lines += _aligned(rows)
    if tally.requests:
        rows = [["request", "count", "", "/s", "", *_LATENCIES]]
        for name, latency in sorted(tally.requests.items()):
            rows.append([name, f"{latency.count:,}", "", _rate(latency.count, seconds, 1), "", *_millis(latency)])
        lines += ["", *_aligned(rows)]
    lines += _losses(tally)
    if seconds and run.cpu_seconds / seconds > BUSY:
        lines += ["", "The rig itself took a whole core: run several, each with a --seed of its own, to load more."]
    return "\n".join(lines)


_LATENCIES = ["p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms"]
_ENDED = {"done": "all done", "duration": "time over", "interrupted": "ended by hand"}


def _losses(tally: LoadStatistics) -> list[str]:
    """What failed, by kind, and what was not started or not finished."""
    lines = []
    for kind, seen in sorted(tally.operations.items()):
        for error, count in sorted(seen.errors.items(), key=lambda each: (-each[1], each[0])):
            said = f" ({tally.said[error]})" if error in tally.said else ""
            lines.append(f"{kind} failed: {error} × {count:,}{said}")
        if seen.not_started:
            lines.append(f"{kind} not started, no room for it when it was due: {seen.not_started:,}")
        if seen.interrupted:
            lines.append(f"{kind} interrupted: {seen.interrupted:,}")
    return ["", *lines] if lines else []


def _operation(seen: Seen, seconds: float) -> dict[str, Any]:
    return {
        "count": seen.latency.count,
        "failed": seen.failed,
        "not_started": seen.not_started,
        "interrupted": seen.interrupted,
        "bytes": seen.bytes,
        "per_second": round(seen.latency.count / seconds, 6) if seconds else 0.0,
        "bytes_per_second": round(seen.bytes / seconds, 3) if seconds else 0.0,
        "latency": _latency(seen.latency),
        "errors": dict(sorted(seen.errors.items())),
    }


def _latency(histogram: Histogram) -> dict[str, float] | None:
    if not histogram.count:
        return None
    percentiles = {f"p{percent:g}": round(histogram.percentile(percent), 6) for percent in PERCENTS}
    return {"mean": round(histogram.total / histogram.count, 6), **percentiles, "max": round(histogram.most, 6)}


def _millis(histogram: Histogram) -> list[str]:
    if not histogram.count:
        return ["–"] * len(_LATENCIES)
    values = [*(histogram.percentile(percent) for percent in PERCENTS), histogram.most]
    return [f"{value * 1000:,.2f}" for value in values]


def _rate(amount: float, seconds: float, digits: int) -> str:
    return f"{amount / seconds:,.{digits}f}" if seconds else "–"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    widths[0] = max(widths[0], 14)
    return [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
