"""The report as a picture, PNG or SVG: how much was done over time, and every latency by its percentile.

matplotlib draws it, which only `pip install 'wharfage[rig]'` brings: `check` says so before a load runs.
"""

from __future__ import annotations

from pathlib import Path

from proxy.rig.errors import InvalidLoad
from proxy.rig.report import RunInfo
from proxy.rig.tally import LoadStatistics

SUFFIXES = (".png", ".svg")
_NINES = 5  # the axis ends at 99.999 %


def check(file: Path) -> None:
    """Whether `draw` can write that file, as far as can be known before the load; `InvalidLoad` when it cannot."""
    if file.suffix.lower() not in SUFFIXES:
        raise InvalidLoad(f"{file}: a picture's name ends in .png or .svg")
    try:
        import matplotlib  # noqa: F401  # only whether it is there
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise InvalidLoad("--picture needs matplotlib: pip install 'wharfage[rig]'") from None


def draw(file: Path, run: RunInfo, tally: LoadStatistics) -> None:
    """Write the picture. `OSError` when it cannot be written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 8), layout="constrained")
    figure.suptitle(f"{run.command} at {run.address}, seed {run.seed}: {tally.seconds:.1f} s")
    done, moved, latencies = figure.subplots(3, 1)
    span = tally.slice_seconds
    times = [number * span for number in range(len(tally.slices) + 1)]
    done.stairs([each.done / span for each in tally.slices], times, label="succeeded")
    done.stairs([each.failed / span for each in tally.slices], times, label="failed", color="tab:red")
    done.set_ylabel("operations / s")
    done.legend(loc="upper right")
    moved.stairs([each.bytes / span / 1e9 for each in tally.slices], times, fill=True, alpha=0.6)
    moved.set_ylabel("GB / s")
    moved.set_xlabel("seconds")
    for kind, seen in sorted(tally.operations.items()):
        count = seen.latency.count
        # The slowest is one of `count`: its line ends where half of one would be.
        steps = [(max(1 - below / count, 0.5 / count, 10**-_NINES), top * 1000) for below, top in seen.latency.steps()]
        if steps:
            latencies.plot(
                [1 / rest for rest, _ in steps], [value for _, value in steps], drawstyle="steps-pre", label=kind
            )
    latencies.set_xscale("log")
    latencies.set_xticks([10**nines for nines in range(_NINES + 1)], ["0", "90", "99", "99.9", "99.99", "99.999"])
    latencies.set_xlabel("percent of operations")
    latencies.set_ylabel("latency, ms")
    latencies.set_ylim(bottom=0)
    if tally.done:
        latencies.legend(loc="upper left")
    for panel in (done, moved, latencies):
        panel.grid(alpha=0.3)
    figure.savefig(file, metadata={"Date": None} if file.suffix.lower() == ".svg" else None)
