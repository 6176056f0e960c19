"""Requests drawn at random to all four doors of a whole registry: none of them breaks anything, and each is answered.

A round is one registry, one seed and `ROUND` requests, many at a time as from many clients; every third seed is on
PostgreSQL, which refuses other values than SQLite does. No answer is a 5xx, each is
in its protocol's own form and, of an operation, in its model's shapes; no log line tells of an exception or an error of
ours; no piece of a secret is in an answer or a log line; and memory stays within a bound. `--fuzz-requests` says how
many requests in all: `make fuzz` sends a million.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
import uvloop

from proxy.auth.secrets import seal_secret
from proxy.ecr.routes import ROUTES
from proxy.model.errors import Failure
from support import postgresql
from support.answer_forms import Secrets, judge
from support.examples import ACCOUNT, NARROWED, REPOSITORY, ROLE, settle
from support.fuzz_input import Known
from support.fuzz_layers import learn
from support.fuzz_oci import CONTENTS
from support.fuzz_requests import EXAMPLES, draw
from support.logs import log_to
from support.memory_connection import PATIENCE_SECONDS, Answer, MemoryConnection
from support.metadata import postgresql_database
from support.oci_requests import digest_of, image
from support.registry_client import RegistryClient, registry_client
from support.sigv4_signer import Credentials

ROUND = 10_000
CLIENTS = 16
WARM = 2_000  # requests after which caches are full and models compiled
GROWTH_MAX = 64 * 2**20  # bytes of memory that the rest of a round may take, and any later round of the process
SEALED_FROM = 40  # before it a token names its kind and master key, as all of them do
FRAMING_PATIENCE = 0.05  # seconds for what may be half a request, to which nothing is ever answered

_OURS = ('"exception"', "Traceback", '"level": "error"', '"level": "critical"')
"""What a log line has in it when something of ours went wrong."""

_before: list[int] = []
"""Memory after the first round of this process."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        rounds = -(-metafunc.config.getoption("--fuzz-requests") // ROUND)
        first = metafunc.config.getoption("--fuzz-seed")
        metafunc.parametrize("seed", [_on_its_database(seed) for seed in range(first, first + rounds)])


def _on_its_database(seed: int) -> Any:
    if seed % 3 != 2:
        return pytest.param(seed, id=f"{seed}-sqlite")
    return pytest.param(seed, id=f"{seed}-postgresql", marks=pytest.mark.needs(postgresql.PROGRAM))


class Log:
    """The stream that a worker's log lines go to. It keeps what must never be among them."""

    def __init__(self) -> None:
        self.secrets = Secrets(())
        self.lines = 0
        self.wrong: list[str] = []
        self._heard: list[str] = []

    def write(self, text: str) -> None:
        self.lines += text.count("\n")
        self._heard.append(text)
        if len(self._heard) > 500:
            self.look()

    def look(self) -> None:
        """Look at what was heard since the last time: all at once, which is quicker."""
        heard = "".join(self._heard)
        if self._is_wrong(heard):
            self.wrong += [text for text in self._heard if self._is_wrong(text)]
        self._heard.clear()

    def _is_wrong(self, text: str) -> bool:
        return any(word in text for word in _OURS) or self.secrets.seen_in(text.encode("utf-8", "backslashreplace"))

    def flush(self) -> None:
        """It is in memory."""

    def isatty(self) -> bool:
        return False


@pytest.fixture
def log() -> Iterator[Log]:
    found = Log()
    with log_to(found, "json"):  # type: ignore[arg-type]  # as much of a stream as is used
        yield found


@dataclass(slots=True)
class Found:
    """What a round came to: outcomes by how often, memory after its first requests and after all, and each answer that
    must not be, once for each way in which it is wrong."""

    tally: Counter[str] = field(default_factory=Counter)
    memory: list[int] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)
    asked: int = 0
    seconds: float = 0.0


@pytest.mark.timeout(600)  # a round takes some 15 seconds of one core, of which a busy machine has little to give
def test_nothing_that_is_sent_breaks_a_door(seed: int, tmp_path: Path, log: Log) -> None:
    database = postgresql_database(tmp_path) if seed % 3 == 2 else ""
    found = uvloop.run(_round(seed, tmp_path, log, database))
    print(f"seed {seed}: {ROUND / found.seconds:.0f} requests/s, {found.memory[1] >> 20} MiB")  # noqa: T201  # for -s
    assert not found.wrong, "\n\n".join(list(found.wrong.values())[:20])
    log.look()
    assert log.wrong == []
    assert log.lines >= found.asked * 0.95, "a request has its line; what is no HTTP may have none"
    _check_memory(found.memory)
    _check_that_it_went_deep(found.tally)


async def _round(seed: int, folder: Path, log: Log, database: str) -> Found:
    found = Found()
    async with registry_client(folder, suffix="registry.example", database=database) as doors:
        known = await _known(doors)
        sealed = [*(each.token for each in known.signers), *known.passwords]
        secrets = Secrets([*(each.secret for each in known.signers), *(each[SEALED_FROM:] for each in sealed)])
        log.secrets = secrets
        begun = time.perf_counter()
        for part, requests in enumerate((WARM, ROUND - WARM)):
            rngs = [Random(f"{seed} {part} {client}") for client in range(CLIENTS)]
            await asyncio.gather(*(_client(doors, rng, known, secrets, found, requests // CLIENTS) for rng in rngs))
            await doors.registry.quiet()
            gc.collect()
            found.memory.append(psutil.Process().memory_info().rss)
        found.seconds = time.perf_counter() - begun
        assert doors.registry.pool.in_use == 0
    return found


async def _client(
    doors: RegistryClient, rng: Random, known: Known, secrets: Secrets, found: Found, requests: int
) -> None:
    line = MemoryConnection(doors.registry.server)
    known = replace(known, parted=deque(maxlen=8))  # one upload is one client's: two at once are told to try again
    for _ in range(requests):
        drawn = draw(rng, known)
        found.asked += 1
        patience = PATIENCE_SECONDS if drawn.whole else FRAMING_PATIENCE
        answer = await line.ask(drawn.raw, is_head=drawn.is_head, patience=patience)
        try:
            outcome = judge(drawn, answer, secrets)
        except Exception as error:  # whatever does not fit is shown with what was sent, once for each way
            told = f"{drawn.operation or drawn.said_in}: {type(error).__name__} {error}"
            found.wrong.setdefault(told[:150], f"{told}\nasked {drawn.raw[:3000]!r}\nanswered {_shown(answer)}")
            continue
        found.tally[f"{drawn.said_in or 'any'} {outcome}"] += 1
        if drawn.signed_anew and drawn.operation:
            found.tally[f"{drawn.said_in}:{drawn.operation} {outcome[:3]}"] += 1
        if answer is not None and outcome == "200":
            learn(known, drawn.operation, answer.body)
        if answer is not None and (upload := answer.headers.get("docker-upload-uuid")):
            known.uploads.append(upload)
    await line.close()


def _shown(answer: Answer | None) -> str:
    return "nothing" if answer is None else f"{answer} {answer.body[:2000]!r}"


async def _known(doors: RegistryClient) -> Known:
    """Everybody who can sign: the administrator, users with some rights and none, sessions; and their passwords."""
    for examples in EXAMPLES.values():
        for example in examples:
            for call in example.before:
                with contextlib.suppress(Failure):  # another example has made it
                    await settle(doors.registry.metadata, [call])
    administrator = doors.keys["administrator"]
    signers = [administrator, doors.keys["ann"], doors.keys["nobody"]]
    elsewhere = Credentials("AKIAELSEWHERE0000001", sha256(b"elsewhere").hexdigest()[:40])
    sealed = seal_secret(doors.registry.secrets, elsewhere.key_id, elsewhere.secret)
    await doors.registry.metadata.create_account("210987654321", elsewhere.key_id, sealed, "administrator")
    signers.append(elsewhere)
    signers.append(await _session(doors, administrator, "GetSessionToken", {"DurationSeconds": 900}))
    role = {"RoleArn": ROLE, "RoleSessionName": "fuzz", "Policy": NARROWED}
    signers.append(await _session(doors, administrator, "AssumeRole", role))
    allowed = {"UserName": "ann", "PolicyName": "login", "PolicyDocument": NARROWED}
    await doors.registry.metadata.iam(ACCOUNT, "PutUserPolicy", allowed)
    passwords = [doors.registry.password, *[await doors.password(who) for who in (administrator, signers[-2])]]
    digests = [digest_of(each) for each in (b"a layer of team/app", *CONTENTS, image([b"a layer of team/app", b"v1"]))]
    known = Known(signers, passwords, [digests[0], digests[-1], *digests[1:-1]])
    asked = {"repositoryName": REPOSITORY, "layerDigest": digests[0]}
    link = await doors.ask("ecr", "GetDownloadUrlForLayer", asked, administrator)
    learn(known, "GetDownloadUrlForLayer", link.body)
    return known


async def _session(doors: RegistryClient, who: Credentials, operation: str, parameters: dict[str, Any]) -> Credentials:
    answer = await doors.ask("sts", operation, parameters, who)
    assert answer.status == 200, answer.body
    found = dict(re.findall(rb"<(AccessKeyId|SecretAccessKey|SessionToken)>([^<]*)<", answer.body))
    return Credentials(*(found[name].decode() for name in (b"AccessKeyId", b"SecretAccessKey", b"SessionToken")))


def _check_memory(memory: list[int]) -> None:
    """Bounded in a round, and over the rounds of this process."""
    _before[:] = _before or [memory[1]]
    assert memory[1] - memory[0] < GROWTH_MAX, (
        f"a round took {memory[1] - memory[0]} bytes more than its first requests"
    )
    assert memory[1] - _before[0] < GROWTH_MAX, f"rounds took {memory[1] - _before[0]} bytes more than the first one"


def _check_that_it_went_deep(tally: Counter[str]) -> None:
    """What is only ever refused at the gate proves little: most operations succeed, and each door gives and refuses."""
    served = {f"{each.service}:{each.operation}" for all_of in EXAMPLES.values() for each in all_of if not each.error}
    succeeded = {name for name in served if tally[f"{name} 200"]}
    assert len(succeeded) > 0.8 * len(served), f"never did: {sorted(served - succeeded)}"
    asked = {outcome.rpartition(" ")[0] for outcome in tally}
    assert asked >= {f"ecr:{operation}" for operation in ROUTES}
    assert tally["link 403"] > ROUND / 1000, "links were tampered with"
    for door in ("ecr", "sts", "iam", "oci"):
        good, bad = (
            sum(times for outcome, times in tally.items() if re.match(f"{door} {first}", outcome)) for first in "24"
        )
        assert good > ROUND / 100, f"{door} did something {good} times"
        assert bad > ROUND / 100, f"{door} refused {bad} times"
