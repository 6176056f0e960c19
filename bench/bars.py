"""Rows of a comparison: what was measured, which bar it must hold, and whether it does.

A relative bar is against the better Go peer at hand on that row, by its median; the ratio is taken in each round, as
what a machine does besides changes from round to round, and the median of those decides. nginx is told beside them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from figures import Source
from peers import DISTRIBUTION, OURS, ZOT

GO_PEERS = (DISTRIBUTION, ZOT)

Measured = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Bar:
    """At most `limit`: times the better Go peer's (`relative`), or in the row's unit."""

    limit: float
    relative: bool = True

    def __str__(self) -> str:
        return f"≤ {self.limit:g}{'x' if self.relative else ''}"


@dataclass(frozen=True, slots=True)
class Row:
    """`work` measures the server of a name once; `by` names the figure that the bar is about, `unit` is that one's."""

    name: str
    unit: str
    by: str
    bar: Bar | None
    servers: Sequence[str]
    work: Callable[[str], Measured]
    rounds: dict[str, list[Measured]] = field(default_factory=dict)

    def keep(self, server: str, measured: Measured) -> None:
        self.rounds.setdefault(server, []).append(measured)

    def figures(self, name: str) -> list[float]:
        return [each[self.by] for each in self.rounds[name]]

    def better_peer(self) -> str | None:
        there = [name for name in GO_PEERS if name in self.rounds]
        return min(there, key=lambda name: statistics.median(self.figures(name)), default=None)

    def ratios(self) -> list[float]:
        """Ours to the better peer's, by round; empty where one of the two is not there."""
        peer = self.better_peer()
        if peer is None or OURS not in self.rounds:
            return []
        return [mine / its for mine, its in zip(self.figures(OURS), self.figures(peer), strict=True) if its]

    def reached(self) -> float | None:
        """What the bar is compared with."""
        if self.bar is None:
            return None
        found = self.ratios() if self.bar.relative else self.figures(OURS)
        return statistics.median(found) if found else None

    def met(self) -> bool | None:
        reached = self.reached()
        return None if self.bar is None or reached is None else reached <= self.bar.limit

    def told(self) -> dict[str, Any]:
        """For the file of results."""
        told: dict[str, Any] = {"row": self.name, "unit": self.unit, "by": self.by}
        if self.bar is not None:
            told["bar"] = {"at_most": self.bar.limit, "times_the_better_peer": self.bar.relative, "met": self.met()}
        if ratios := self.ratios():
            told["ratio"] = {"to": self.better_peer(), **_spread(ratios)}
        told["servers"] = {
            name: {"spread": _spread(self.figures(name)), "rounds": rounds} for name, rounds in self.rounds.items()
        }
        return told


class Group:
    """Rows that are measured one after the other in each round, with what they need laid before them and taken away."""

    name: str
    rows: Sequence[Row]
    most_rounds: int | None = None  # of what takes minutes
    warms = True  # the first round is not kept

    def begin(self) -> None:
        """Before the rows of a round."""

    def end(self) -> None:
        """After them, also after a failure."""


def table(rows: Sequence[Row]) -> str:
    """Markdown, one line a row: medians (lowest to highest) of each server."""
    names = list(dict.fromkeys(name for row in rows for name in row.rounds))
    lines = [
        f"| work | unit | {' | '.join(names)} | ratio to the better Go peer (rounds) | bar | |",
        f"|---|---|{'---|' * len(names)}---|---|---|",
    ]
    for row in rows:
        cells = [_cell(row.figures(name)) if name in row.rounds else "–" for name in names]
        ratios = row.ratios()
        ratio = f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "–"
        verdict = {True: "met", False: "**missed**", None: ""}[row.met()]
        lines.append(f"| {row.name} | {row.unit} | {' | '.join(cells)} | {ratio} | {row.bar or '–'} | {verdict} |")
    return "\n".join(lines)


def document(rows: Sequence[Row], where: str, source: Source) -> dict[str, Any]:
    """What a file of results holds; `where` says on what the data lay."""
    return {
        "machine": source.machine,
        "date": source.date,
        "commit": source.commit,
        "command": source.command,
        "where": where,
        "rows": [row.told() for row in rows],
    }


def _cell(found: Sequence[float]) -> str:
    middle = statistics.median(found)
    return _short(middle) if len(found) == 1 else f"{_short(middle)} ({_short(min(found))} to {_short(max(found))})"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def _spread(found: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(found), 4),
        "lowest": round(min(found), 4),
        "highest": round(max(found), 4),
    }
