"""What was seen, in bounded memory: operations and requests by kind, failures by kind, and how it went over time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.rig.histogram import Histogram
from proxy.upstream.errors import RequestFailed

ERROR_KINDS = 64  # of one operation; further ones are "other"
SLICES = 600  # of time; then each two become one


@dataclass(slots=True)
class Seen:
    """Operations of one kind. `latency` holds those that succeeded; `bytes` moved by them."""

    latency: Histogram = field(default_factory=Histogram)
    bytes: int = 0
    failed: int = 0
    not_started: int = 0
    interrupted: int = 0
    errors: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Slice:
    """What ended within one stretch of time."""

    done: int = 0
    failed: int = 0
    bytes: int = 0


class LoadStatistics:
    """One run. `clock` counts seconds; time is counted from `begin`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.began = clock()
        self.ended = self.began
        self.operations: dict[str, Seen] = {}
        self.requests: dict[str, Histogram] = {}
        self.said: dict[str, str] = {}  # kind of failure to the rig's own word about it
        self.slices: list[Slice] = []
        self.slice_seconds = 1.0

    def begin(self) -> None:
        self.began = self.ended = self.clock()

    @property
    def seconds(self) -> float:
        """From the beginning to the end of the last operation."""
        return self.ended - self.began

    @property
    def done(self) -> int:
        return sum(seen.latency.count for seen in self.operations.values())

    @property
    def failed(self) -> int:
        return sum(seen.failed for seen in self.operations.values())

    @property
    def taken(self) -> int:
        """All that were due, whatever became of them."""
        lost = sum(seen.not_started + seen.interrupted for seen in self.operations.values())
        return self.done + self.failed + lost

    @property
    def bytes(self) -> int:
        return sum(seen.bytes for seen in self.operations.values())

    def request(self, name: str, seconds: float) -> None:
        if name not in self.requests:
            self.requests[name] = Histogram()
        self.requests[name].add(seconds)

    def succeeded(self, kind: str, seconds: float, moved: int) -> None:
        seen = self._seen(kind)
        seen.latency.add(seconds)
        seen.bytes += moved
        now = self._slice()
        now.done += 1
        now.bytes += moved

    def went_wrong(self, kind: str, failure: RequestFailed) -> None:
        seen = self._seen(kind)
        seen.failed += 1
        name = failure.kind if failure.kind in seen.errors or len(seen.errors) < ERROR_KINDS else "other"
        seen.errors[name] = seen.errors.get(name, 0) + 1
        if failure.said and len(self.said) < ERROR_KINDS:
            self.said.setdefault(name, failure.said)
        self._slice().failed += 1

    def not_started(self, kind: str) -> None:
        """It was due, and there was no room for it."""
        self._seen(kind).not_started += 1

    def interrupted(self, kind: str) -> None:
        """It was on its way when the run was ended by hand."""
        self._seen(kind).interrupted += 1

    def _seen(self, kind: str) -> Seen:
        if kind not in self.operations:
            self.operations[kind] = Seen()
        return self.operations[kind]

    def _slice(self) -> Slice:
        self.ended = self.clock()
        while (index := int(self.seconds / self.slice_seconds)) >= SLICES:
            self._halve()
        while len(self.slices) <= index:
            self.slices.append(Slice())
        return self.slices[index]

    def _halve(self) -> None:
        pairs = [self.slices[at : at + 2] for at in range(0, len(self.slices), 2)]
        self.slices = [
            Slice(sum(s.done for s in pair), sum(s.failed for s in pair), sum(s.bytes for s in pair)) for pair in pairs
        ]
        self.slice_seconds *= 2
