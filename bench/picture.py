"""The picture and the table of what was measured: each bar of bench/results, and how far it is from being missed.

    python bench/picture.py [--results bench/results] [--to bench/results/bars.svg]

The table goes to standard output. In the picture a row's length is what was reached as a share of its bar: at 1 it is
just met; lines are the lowest and the highest round. Both are made from the files alone, which say when, where and at
which commit each group was measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]  # run as a script: `support` is in tests

from figures import RESULTS  # noqa: E402 - once the path above is set

ORDER = (
    "pull",
    "pull-tmpfs",
    "ranges",
    "push",
    "push-tmpfs",
    "images",
    "small",
    "fleet",
    "latency",
    "memory",
    "storms",
    "scale",
    "s3",
)
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


def read(results: Path) -> dict[str, Any]:
    """What the files hold, by group and in the table's order. Rows of a tmpfs say so: a disk has some of that name."""
    paths = {name: results / f"{name}.json" for name in ORDER}
    found = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    for group in found.values():
        for row in group["rows"] if group["where"] == "tmpfs" else ():
            row["row"] += ", on a tmpfs"
    return found


def sources(found: dict[str, Any]) -> list[str]:
    """A line for each machine, day and commit, with the groups that were measured so."""
    groups: dict[str, list[str]] = {}
    for name, group in found.items():
        groups.setdefault(f"{group['machine']}; {group['date'][:10]}; commit {group['commit']}", []).append(name)
    return [f"{', '.join(names)}: {source}" for source, names in groups.items()]


def table(found: dict[str, Any]) -> str:
    """Markdown: medians by server, the ratio with its lowest and highest round, and whether the bar is met."""
    lines = ["| work | wharfage | distribution | nginx | ratio (rounds) | bar | |", "|---|---|---|---|---|---|---|"]
    for name, group in found.items():
        for row in group["rows"] if name != "s3" else ():
            cells = [
                f"{row['servers'][server]['spread']['median']:.3g}" if server in row["servers"] else "–"
                for server in ("wharfage", "distribution", "nginx")
            ]
            ratio = row.get("ratio")
            told = f"**{ratio['median']:.2f}** ({ratio['lowest']:.2f} to {ratio['highest']:.2f})" if ratio else "–"
            limit, met = "–", ""
            if (bar := row.get("bar")) is not None:
                limit = f"≤ {bar['at_most']:g}{'x' if bar['times_the_better_peer'] else ''}"
                met = "met" if bar["met"] else "**missed**"
            unit = f", {row['unit']}" if row["unit"] else ""
            lines.append(f"| {row['row']}{unit} | {' | '.join(cells)} | {told} | {limit} | {met} |")
    return "\n".join(lines)


def draw(rows: list[Drawn], below: list[str], to: Path) -> None:
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
    axes.set_xlabel("share of the bar: shorter is better, at 1 it is just met\n" + "\n".join(below), fontsize=6.5)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(to, metadata={"Date": None, "Creator": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--to", type=Path, default=RESULTS / "bars.svg")
    asked = parser.parse_args()
    found = read(asked.results)
    print(table(found))
    rows = [row for group in found.values() for each in group["rows"] if (row := drawn(each)) is not None]
    draw(rows, sources(found), asked.to)


if __name__ == "__main__":
    main()
