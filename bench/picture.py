"""The picture of what was measured: each bar of bench/results, and how far it is from being missed.

    python bench/picture.py [--results bench/results] [--to bench/results/bars.svg]

A row's length is what was reached as a share of its bar: at 1 it is just met. Lines are the lowest and the highest
round. Drawn from the files alone, which say when, where and at which commit each group was measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]  # run as a script: `harness` lies in tests

from figures import RESULTS  # noqa: E402 - once the path above is set

ORDER = ("pull", "ranges", "push", "images", "small", "latency", "memory", "storms", "scale", "s3")
SHOWN = 4.0  # times its bar; what is longer ends here, with its number
MET, MISSED = "#2f7d5b", "#c2573a"


@dataclass(frozen=True, slots=True)
class Drawn:
    """Shares of a bar, 1 being just met."""

    name: str
    reached: float
    lowest: float
    highest: float
    told: str

    @property
    def met(self) -> bool:
        return self.reached <= 1


def drawn(row: dict[str, Any]) -> Drawn | None:
    """Nothing of a row without a bar."""
    if "bar" not in row:
        return None
    bar = row["bar"]
    against_a_peer = bar.get("times_the_better_peer", "ratio" in row)
    found = row["ratio"] if against_a_peer else row["servers"]["wharfage"]["spread"]
    sign, limit = ("≤", bar["at_most"]) if "at_most" in bar else ("≥", bar["at_least"])
    reached, lowest, highest = (
        found[each] / limit if sign == "≤" else limit / found[each] for each in ("median", "lowest", "highest")
    )
    unit = f" of {found['to']}'s" if "to" in found else "" if against_a_peer else f" {row['unit']}"
    return Drawn(row["row"], reached, lowest, highest, f"{found['median']:.3g}{unit} ({sign} {limit:g})")


def read(results: Path) -> tuple[list[Drawn], list[str]]:
    """The rows in the table's order, and a line about where they come from for each kind of run."""
    rows: list[Drawn] = []
    sources: dict[str, list[str]] = {}
    for name in ORDER:
        path = results / f"{name}.json"
        if not path.exists():
            continue
        found = json.loads(path.read_text())
        rows += [row for each in found["rows"] if (row := drawn(each)) is not None]
        sources.setdefault(f"{found['machine']}; {found['date'][:10]}; commit {found['commit']}", []).append(name)
    return rows, [f"{', '.join(names)}: {source}" for source, names in sources.items()]


def draw(rows: list[Drawn], sources: list[str], to: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "wharfage", "font.size": 8, "font.family": "sans-serif"}
    )
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 0.24 * len(rows) + 1.1), layout="constrained")
    for place, row in enumerate(rows):
        color = MET if row.met else MISSED
        axes.barh(place, min(row.reached, SHOWN), height=0.62, color=color)
        axes.plot([min(row.lowest, SHOWN), min(row.highest, SHOWN)], [place, place], color="#222222", linewidth=0.8)
        axes.text(SHOWN * 1.02, place, row.told, va="center", fontsize=7, color=color)
    axes.axvline(1, color="#222222", linewidth=1, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_xlim(0, SHOWN)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("share of the bar: shorter is better, at 1 it is just met\n" + "\n".join(sources), fontsize=6.5)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(to, metadata={"Date": None, "Creator": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--to", type=Path, default=RESULTS / "bars.svg")
    asked = parser.parse_args()
    draw(*read(asked.results), asked.to)


if __name__ == "__main__":
    main()
