"""Answers that docker's door gives again at once: what each leaves behind, and what ends them at the next request."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy import observe
from proxy.http.response_cache import ResponseCache
from proxy.metadata.client.epochs import Epochs
from proxy.model.identity import RepositoryAccess
from proxy.model.quotas import Rate
from proxy.registry.pull_times import PullTimes
from support.examples import ACCOUNT, REPOSITORY
from support.memory_connection import Answer
from support.oci_requests import digest_of
from support.recording_trail import RecordingTrail
from support.registry_client import LAYER, NOBODY, RegistryClient, push, registry_client

V1 = f"/v2/{REPOSITORY}/manifests/v1"
BLOB = f"/v2/{REPOSITORY}/blobs/{digest_of(LAYER)}"
READS = [("GET", V1), ("HEAD", V1), ("HEAD", BLOB), ("GET", "/v2/"), ("HEAD", "/v2/")]
PULL = {"Effect": "Allow", "Action": "ecr:Batch*", "Resource": "*"}
ARN = f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/{REPOSITORY}"

Change = Callable[[RegistryClient], Awaitable[object]]


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Noted(PullTimes):
    """Hears of each pull."""

    def __init__(self) -> None:
        super().__init__(self._hand_in, time.time)
        self.pulls: list[tuple[str, str, str, str]] = []

    async def _hand_in(self, pulls: Any) -> None:
        """Nobody keeps them."""

    def pulled(self, account: str, repository: str, digest: str, principal: str) -> None:
        self.pulls.append((account, repository, digest, principal))


@pytest.fixture
def trail() -> RecordingTrail:
    return RecordingTrail()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def doors(tmp_path: Path, trail: RecordingTrail, clock: Clock) -> AsyncIterator[RegistryClient]:
    async with registry_client(tmp_path, trail=trail, pulls=Noted(), now=clock) as found:
        yield found


@pytest.fixture(autouse=True)
def _count_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lookup = ResponseCache.lookup

    def lookup_and_settle(self: ResponseCache, name: bytes) -> bytes | None:
        answer = lookup(self, name)
        self._counters.settle()
        return answer

    monkeypatch.setattr(ResponseCache, "lookup", lookup_and_settle)


def given_again() -> float:
    return observe._registry.get_sample_value("wharfage_http_answered_again_total") or 0.0


async def ask(doors: RegistryClient, method: str, path: str, password: str = "") -> tuple[Answer, bool]:
    """The answer, and whether it was given again."""
    before = given_again()
    answer = await doors.docker(method, path, password or doors.registry.password)
    return answer, given_again() > before


async def settled(doors: RegistryClient, method: str, path: str, password: str = "") -> Answer:
    """Asked until the answer is given again."""
    for _ in range(4):
        answer, again = await ask(doors, method, path, password)
        if again:
            return answer
    raise AssertionError(f"{method} {path} is never given again: {answer}")


@pytest.mark.parametrize(("method", "path"), READS)
async def test_a_read_is_the_same_again_and_its_event_too(
    doors: RegistryClient, trail: RecordingTrail, method: str, path: str
) -> None:
    """But for moment and ids; `/v2/` is no operation and leaves none."""
    first = await settled(doors, method, path)
    trail.received.clear()
    answers = [await ask(doors, method, path) for _ in range(3)]
    assert [again for _, again in answers] == [True] * 3
    for answer, _ in answers:
        assert answer == Answer(first.status, {**first.headers, "date": answer.headers["date"]}, first.body)
    events = trail.events
    assert len(events) == (0 if path == "/v2/" else 3)
    assert len({event.pop("requestID") for event in events}) == len(events)
    for event in events:
        assert abs(time.time() - _epoch(event.pop("eventTime"))) < 60
        del event["eventID"]
    assert events == events[:1] * len(events)


def _epoch(text: str) -> float:
    return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")) - time.timezone


async def test_each_manifest_given_again_is_a_pull(tmp_path: Path) -> None:
    """A look at one (HEAD) is none."""
    noted = Noted()
    async with registry_client(tmp_path, pulls=noted) as doors:
        for method in ("HEAD", "GET"):
            await settled(doors, method, V1)
        noted.pulls.clear()
        for method, count in (("HEAD", 0), ("GET", 2)):
            for _ in range(2):
                assert (await ask(doors, method, V1))[1]
            assert len(noted.pulls) == count
    assert len(set(noted.pulls)) == 1


async def test_what_the_client_has_already_is_said_again_too(doors: RegistryClient) -> None:
    digest = (await ask(doors, "GET", V1))[0].headers["docker-content-digest"]
    lines = [("If-None-Match", f'"{digest}"')]
    before = given_again()
    answers = [await doors.docker("GET", V1, doors.registry.password, lines=lines) for _ in range(4)]
    assert [answer.status for answer in answers] == [304] * 4
    assert given_again() - before == 2


async def _move_tag(doors: RegistryClient) -> None:
    await push(doors, REPOSITORY, "v1", [LAYER, b"moved"])


async def _delete_image(doors: RegistryClient) -> None:
    digest = (await doors.docker("HEAD", V1, doors.registry.password)).headers["docker-content-digest"]
    answer = await doors.docker("DELETE", f"/v2/{REPOSITORY}/manifests/{digest}", doors.registry.password)
    assert answer.status == 202


async def _delete_repository(doors: RegistryClient) -> None:
    await doors.registry.metadata.call(ACCOUNT, "DeleteRepository", {"repositoryName": REPOSITORY, "force": True})


async def _quarantine(doors: RegistryClient) -> None:
    blob = await doors.registry.blobs.find(ACCOUNT, REPOSITORY, digest_of(LAYER))
    await doors.registry.metadata.quarantine(blob.sealed.object_key, "a test")


@pytest.mark.parametrize(
    ("method", "path", "change", "status"),
    [
        ("GET", V1, _delete_image, 404),
        ("HEAD", V1, _delete_image, 404),
        ("GET", V1, _delete_repository, 404),
        ("HEAD", BLOB, _delete_repository, 404),
        ("HEAD", BLOB, _quarantine, 404),
    ],
)
async def test_what_is_gone_is_gone_at_the_next_request(
    doors: RegistryClient, method: str, path: str, change: Change, status: int
) -> None:
    assert (await settled(doors, method, path)).status == 200
    await change(doors)
    answer, again = await ask(doors, method, path)
    assert (answer.status, again) == (status, False)
    assert not (await ask(doors, method, path))[1], "what is not there is asked for each time"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_moved_tag_is_seen_by_the_next_request(doors: RegistryClient, method: str) -> None:
    before = await settled(doors, method, V1)
    await _move_tag(doors)
    answer, again = await ask(doors, method, V1)
    assert not again
    assert answer.headers["docker-content-digest"] != before.headers["docker-content-digest"]
    assert (await settled(doors, method, V1)).headers == {**answer.headers, "date": answer.headers["date"]}


async def _take_policy(doors: RegistryClient) -> None:
    await doors.permit()


async def _deny_by_repository(doors: RegistryClient) -> None:
    statement = {"Effect": "Deny", "Principal": "*", "Action": "ecr:Batch*"}
    text = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    asked = {"repositoryName": REPOSITORY, "policyText": text, "force": True}
    await doors.registry.metadata.call(ACCOUNT, "SetRepositoryPolicy", asked)


async def _deny_by_tag(doors: RegistryClient) -> None:
    """The user's own policy reads the repository's tags."""
    await doors.registry.metadata.call(ACCOUNT, "UntagResource", {"resourceArn": ARN, "tagKeys": ["Team"]})


@pytest.mark.parametrize("change", [_take_policy, _deny_by_repository, _deny_by_tag])
@pytest.mark.parametrize(("method", "path"), [("GET", V1), ("HEAD", BLOB)])
async def test_who_may_no_longer_is_refused_at_the_next_request(
    doors: RegistryClient, method: str, path: str, change: Change
) -> None:
    await doors.permit({**PULL, "Condition": {"StringEquals": {"aws:ResourceTag/Team": "a"}}}, _login())
    password = await doors.password(doors.keys[NOBODY])
    assert (await settled(doors, method, path, password)).status == 200
    await change(doors)
    answer, again = await ask(doors, method, path, password)
    assert (answer.status, again) == (403, False)
    assert not (await ask(doors, method, path, password))[1], "a refusal is worked out each time"


def _login() -> dict[str, Any]:
    return {"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"}


@pytest.mark.parametrize(("method", "path"), READS)
async def test_who_is_gone_is_nobody_at_the_next_request(doors: RegistryClient, method: str, path: str) -> None:
    """With a good token of a user that is deleted."""
    await doors.permit(PULL, _login())
    password = await doors.password(doors.keys[NOBODY])
    assert (await settled(doors, method, path, password)).status == 200
    await doors.permit()
    for operation, more in (("DeleteAccessKey", {"AccessKeyId": doors.keys[NOBODY].key_id}), ("DeleteUser", {})):
        await doors.registry.metadata.iam(ACCOUNT, operation, {"UserName": NOBODY, **more})
    answer, again = await ask(doors, method, path, password)
    assert (answer.status, again) == (401, False)


@pytest.mark.parametrize(("method", "path"), READS)
async def test_a_token_that_ends_ends_its_answers(doors: RegistryClient, clock: Clock, method: str, path: str) -> None:
    assert (await settled(doors, method, path)).status == 200
    clock.ahead = 12 * 3600 - 60
    assert (await settled(doors, method, path)).status == 200
    clock.ahead += 61
    answer, again = await ask(doors, method, path)
    assert (answer.status, again) == (403, False)


async def test_an_answer_is_worked_out_anew_after_some_minutes(doors: RegistryClient, clock: Clock) -> None:
    """Rows that have to hear of a blob's use hear of it."""
    await settled(doors, "HEAD", BLOB)
    clock.ahead = 301
    assert not (await ask(doors, "HEAD", BLOB))[1]
    assert (await ask(doors, "HEAD", BLOB))[1]


@pytest.mark.parametrize("key", ["aws:CurrentTime", "aws:EpochTime"])
async def test_where_a_policy_reads_the_clock_it_is_asked_each_time(
    doors: RegistryClient, clock: Clock, key: str
) -> None:
    """Such a permission ends by itself, with nothing changed."""
    soon = time.time() + 1000
    if key == "aws:CurrentTime":
        until = {"DateLessThan": {key: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(soon))}}
    else:
        until = {"NumericLessThan": {key: str(int(soon))}}
    await doors.permit({**PULL, "Condition": until}, _login())
    password = await doors.password(doors.keys[NOBODY])
    for _ in range(3):
        answer, again = await ask(doors, "GET", V1, password)
        assert (answer.status, again) == (200, False)
    clock.ahead = 1100
    assert (await ask(doors, "GET", V1, password))[0].status == 403


async def test_where_an_operation_has_a_rate_each_request_is_counted(tmp_path: Path) -> None:
    async with registry_client(tmp_path, rates={"BatchGetImage": Rate(0.01, 3.0)}) as doors:
        answers = [await ask(doors, "GET", V1) for _ in range(4)]
        assert [(answer.status, again) for answer, again in answers] == [(200, False)] * 3 + [(429, False)]
        await settled(doors, "HEAD", BLOB)


async def test_nothing_is_given_again_while_nothing_can_be_told(doors: RegistryClient, tmp_path: Path) -> None:
    """A node whose lease has run out, or that lives on what was valid when the database was lost, asks the long way."""
    page = await asyncio.to_thread(Epochs, tmp_path / "epochs")
    try:
        for until, grace in ((1, False), (0, True)):
            await settled(doors, "GET", V1)
            page.grant_lease(until, grace=grace)
            for _ in range(2):
                assert not (await ask(doors, "GET", V1))[1]
            page.grant_lease(0)
    finally:
        page.grant_lease(0)
        page.close()


class _FullTrail(RecordingTrail):
    full = False

    def try_enqueue(self, happened: Any) -> bool:
        return not self.full and super().try_enqueue(happened)


async def test_with_a_full_trail_a_request_waits_for_its_event_as_ever(tmp_path: Path) -> None:
    trail = _FullTrail()
    async with registry_client(tmp_path, trail=trail) as doors:
        await settled(doors, "GET", V1)
        trail.full = True
        answer, again = await ask(doors, "GET", V1)
        assert (answer.status, again) == (200, False)


@pytest.mark.parametrize(
    "path", [f"/v2/{REPOSITORY}/tags/list", "/v2/_catalog", f"/v2/{REPOSITORY}/referrers/{digest_of(LAYER)}", BLOB]
)
async def test_what_is_listed_or_has_a_body_of_its_own_is_never_given_again(doors: RegistryClient, path: str) -> None:
    for _ in range(3):
        answer, again = await ask(doors, "GET", path)
        assert (answer.status, again) == (200, False)


class _Kms:
    """The part of a provider that says whether a key is refused now."""

    asked = 0

    async def require(self, kms_key: str, sealed_for: str) -> None:
        self.asked += 1


async def test_where_a_repository_has_a_kms_key_it_is_asked_about_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KMS may refuse it at any moment, and nothing here changes then."""
    kms = _Kms()
    async with registry_client(tmp_path, kms=kms) as doors:
        metadata = doors.registry.metadata
        found = await metadata.repository_access(ACCOUNT, REPOSITORY)
        with_key = replace(found, encryption="arn:aws:kms:us-east-1:123456789012:key/a")
        monkeypatch.setattr(metadata, "repository_access", _always(with_key))
        for _ in range(4):
            answer, again = await ask(doors, "GET", V1)
            assert (answer.status, again) == (200, False)
    assert kms.asked == 4


def _always(found: RepositoryAccess) -> Callable[..., Awaitable[RepositoryAccess]]:
    async def answer(*_: object) -> RepositoryAccess:
        return found

    return answer
