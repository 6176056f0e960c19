"""Two registries asked the same by turns, and how long each answer took.

A case is one question: an operation of the ECR door, signed before its clock runs, or requests of docker's door. Each
round visits every case, in blocks: the one registry is asked, the other twice as often, and the one again, a few times
in a row; which is the one takes turns. So both are asked alike often, and after as much of the other's, within a
fraction of a second of each other. What is asked for is drawn at random of as many repositories, images and layers on
both sides, all over the registry: its size is what differs, not how many are in use. The client's own garbage is
collected between rounds. What the answers show is `ratios`' to say.
"""

from __future__ import annotations

import base64
import gc
import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from fill import KIND, Size, name_of
from load import Line, expect
from ratios import Ratio, ratios
from tqdm import tqdm  # type: ignore[import-untyped]  # ships no types

from proxy.ecr.routes import TARGET_PREFIX
from support.server import Server

REGION = "us-east-1"
PARTS = (0.5, 0.99)
WORKING_SET = 200  # repositories that are asked for by turns, and images of the large one


class Side:
    """A served registry, one line to each of its doors."""

    def __init__(self, name: str, server: Server, size: Size, random: Random) -> None:
        self.name = name
        self.size = size
        self.random = random
        self._address = server.address
        self._credentials = Credentials(*server.credentials())
        basic = base64.b64encode(f"AWS:{server.password()}".encode()).decode()
        self._headers = f"Authorization: Basic {basic}\r\n"

        self.marks: dict[str, str] = {}  # tokens of pages, by what they are pages of

    def begin(self) -> None:
        """Lines to both doors, anew: what has been idle for long may be closed."""
        self._http = http.client.HTTPConnection(self._address, timeout=60)
        self._http.connect()
        self.docker = Line(self._address, self._headers)

    def call(self, operation: str, parameters: Mapping[str, Any], *, error: str = "") -> tuple[float, Any]:
        """(seconds, answer); `error` is the code of the answer where there can be no better one."""
        request = AWSRequest("POST", f"http://{self._address}/", data=json.dumps(parameters).encode())
        request.headers["Content-Type"] = "application/x-amz-json-1.1"
        request.headers["X-Amz-Target"] = TARGET_PREFIX + operation
        SigV4Auth(self._credentials, "ecr", REGION).add_auth(request)
        headers = dict(request.headers.items())
        began = time.perf_counter()
        self._http.request("POST", "/", request.data, headers)
        answered = self._http.getresponse()
        body = answered.read()
        seconds = time.perf_counter() - began
        answer = json.loads(body)
        code = "" if answered.status == 200 else str(answer.get("__type")).rpartition("#")[2]
        if code != error:
            raise RuntimeError(f"{operation} {parameters}: {answer}")
        return seconds, answer

    def get(self, path: str) -> float:
        began = time.perf_counter()
        expect(self.docker.ask("GET", path, more=f"Accept: {KIND}\r\n"), 200)
        return time.perf_counter() - began

    def some(self) -> str:
        """A repository's name: of `WORKING_SET` of them, which lie apart."""
        return name_of(self.random.randrange(WORKING_SET) * (self.size.repositories // WORKING_SET))

    def close(self) -> None:
        self._http.close()
        self.docker.close()


@dataclass(frozen=True, slots=True)
class Case:
    """`ask` takes a side and which time this is, and gives the seconds."""

    name: str
    page: str
    ask: Callable[[Side, int], float]


@dataclass
class Figures:
    """Seconds of every answer, in the order in which they came; as many of each in every one of the rounds."""

    name: str
    page: str
    rounds: int
    small: list[float] = field(default_factory=list)
    full: list[float] = field(default_factory=list)

    @cached_property
    def shown(self) -> list[Ratio]:
        """Of p50 and p99, once all answers are there."""
        return ratios(self.small, self.full, self.rounds, PARTS)


def measure(
    small: Side,
    full: Side,
    cases: Sequence[Case],
    rounds: int,
    blocks: int,
    in_a_row: int,
    begin: Callable[[], None],
) -> list[Figures]:
    """The first round warms both and is not kept; before each is `begin`. A side is asked `2 * blocks * in_a_row` times
    in a visit."""
    found = [Figures(case.name, case.page, rounds) for case in cases]
    numbers: dict[tuple[int, str], int] = {}  # how often a side was asked a question
    for number in tqdm(range(rounds + 1), unit=" rounds", disable=None):
        begin()
        with _uncollected():
            for place, (case, kept) in enumerate(zip(cases, found, strict=True)):
                one, other = ((small, kept.small), (full, kept.full))[:: 1 if number % 2 else -1]
                for side in (small, full):
                    side.begin()
                for (side, figures), times in ((one, 1), (other, 2), (one, 1)) * blocks:
                    if not number:  # a page that is looked for takes long, and idle lines are closed meanwhile
                        side.close()
                        side.begin()
                    for _ in range(times * in_a_row):
                        time_of = numbers[place, side.name] = numbers.get((place, side.name), -1) + 1
                        took = case.ask(side, time_of)
                        if number:
                            figures.append(took)
                for side in (small, full):
                    side.close()
    return found


def table(figures: Sequence[Figures], bar: float) -> str:
    """Markdown, one row a case; milliseconds."""
    columns = "small | full | ratio | 95 % | shown"
    lines = [f"| what is asked | page | p50: {columns} | p99: {columns} |", "|---" * 12 + "|"]
    for figure in figures:
        cells = [
            f"{each.small * 1000:.1f} | {each.full * 1000:.1f} | {each.value:.2f}"
            f" | {each.low:.2f}–{each.high:.2f} | {each.shown(bar)}"
            for each in figure.shown
        ]
        lines.append(f"| {figure.name} | {figure.page} | {' | '.join(cells)} |")
    return "\n".join(lines)


@contextmanager
def _uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
