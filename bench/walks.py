"""Two registries asked the same by turns, and how long each answer took.

A case is one question: an operation of the ECR door, signed before its clock runs, or requests of docker's door. Each
round asks every case of the one registry, of the other twice as often, and of the one again, some times in a row; which
is the one takes turns. So both are asked alike often, and after as much of the other's. What is asked for is drawn at
random of as many repositories, images and layers on both sides, all over the registry: its size is what differs, not
how many are in use.
"""

from __future__ import annotations

import base64
import http.client
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from fill import KIND, Size, name_of
from load import Line, expect
from tqdm import tqdm  # type: ignore[import-untyped]  # ships no types

from harness.server import Server
from proxy.ecr.routes import TARGET_PREFIX

REGION = "us-east-1"
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


@dataclass(slots=True)
class Figures:
    """Seconds of every answer."""

    name: str
    page: str
    small: list[float] = field(default_factory=list)
    full: list[float] = field(default_factory=list)

    def ratio(self, part: float) -> float:
        """Of the full registry's quantile to the small one's."""
        return _at(self.full, part) / _at(self.small, part)

    def halves(self, part: float) -> float:
        """Of the small registry's quantile to itself, of every second answer to the others: what chance alone makes."""
        quantiles = [_at(self.small[half::2], part) for half in (0, 1)]
        return max(quantiles) / min(quantiles)

    @property
    def worst(self) -> float:
        return max(self.ratio(0.5), self.ratio(0.99))


def measure(
    small: Side, full: Side, cases: Sequence[Case], rounds: int, in_a_row: int, begin: Callable[[], None]
) -> list[Figures]:
    """The first round warms both and is not kept; before each is `begin`."""
    found = [Figures(case.name, case.page) for case in cases]
    numbers: dict[tuple[int, str], int] = {}  # how often a side was asked a question
    for number in tqdm(range(rounds + 1), unit=" rounds", disable=None):
        begin()
        for place, (case, kept) in enumerate(zip(cases, found, strict=True)):
            one, other = ((small, kept.small), (full, kept.full))[:: 1 if number % 2 else -1]
            for (side, figures), times in ((one, 1), (other, 2), (one, 1)):
                side.begin()
                for _ in range(times * in_a_row):
                    time_of = numbers[place, side.name] = numbers.get((place, side.name), -1) + 1
                    took = case.ask(side, time_of)
                    if number:
                        figures.append(took)
                side.close()
    return found


def table(figures: Sequence[Figures]) -> str:
    """Markdown, one row a case; milliseconds."""
    lines = [
        "| what is asked | page | p50: small | full | ratio | halves | p99: small | full | ratio | halves |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in figures:
        cells = []
        for part in (0.5, 0.99):
            small, full = _at(each.small, part), _at(each.full, part)
            cells += [
                f"{small * 1000:.1f}",
                f"{full * 1000:.1f}",
                f"{each.ratio(part):.2f}",
                f"{each.halves(part):.2f}",
            ]
        lines.append(f"| {each.name} | {each.page} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _at(seconds: list[float], part: float) -> float:
    if part == 0.5:
        return statistics.median(seconds)
    return sorted(seconds)[min(len(seconds) - 1, int(len(seconds) * part))]
