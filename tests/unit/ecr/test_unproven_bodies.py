"""Bodies before their proof cost a bounded sum of memory, whoever's name they bear and in whatever form they come."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from proxy.ecr import bodies
from proxy.http import unproven_budget as unproven_of
from proxy.http.unproven_budget import CHARGE_MAX, UnprovenBytes
from support.aws_handler import ADMIN_KEY, AwsHandler

KIB = 1024
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
PART = b'{"layerPartBlob":"' + b64encode(bytes(30 * KIB)) + b'","repositoryName":"a/b"}'
FORM_BODY = b"Action=GetCallerIdentity&Version=2011-06-15&A=" + b"a" * 40 * KIB

Lines = list[tuple[str, str]]


def json_call(door: AwsHandler) -> tuple[Lines, bytes]:
    body = json.dumps({"a": "a" * 40 * KIB}).encode()
    return door.signed(body=body), body


def layer_part(door: AwsHandler) -> tuple[Lines, bytes]:
    return door.signed("UploadLayerPart", PART), PART


def query(door: AwsHandler) -> tuple[Lines, bytes]:
    return door.signed(body=FORM_BODY, service="sts", headers=FORM), FORM_BODY


def unsigned(door: AwsHandler) -> tuple[Lines, bytes]:
    body = FORM_BODY.replace(b"GetCallerIdentity", b"AssumeRoleWithWebIdentity")
    return [("Host", door.address), *FORM.items()], body


forms = pytest.mark.parametrize("form", [json_call, layer_part, query, unsigned])
Form = Callable[[AwsHandler], tuple[Lines, bytes]]


@pytest.fixture
def budget() -> UnprovenBytes:
    return UnprovenBytes(1000 * KIB, 60 * KIB)


@pytest.fixture
async def door(budget: UnprovenBytes) -> AsyncIterator[AwsHandler]:
    started = AwsHandler(unproven=budget)
    await started.begin()
    yield started
    await started.finish()


Begin = Callable[[Lines, bytes, int], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@pytest.fixture
async def begin(door: AwsHandler) -> AsyncIterator[Begin]:
    """Sends a head and so many bytes of its body, on a connection of its own."""
    lines = []

    async def one(head: Lines, body: bytes, count: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*door.address.split(":"))
        lines.append(writer)
        said = "".join(f"{name}: {value}\r\n" for name, value in (*head, ("Content-Length", str(len(body)))))
        writer.write(f"POST / HTTP/1.1\r\n{said}\r\n".encode() + body[:count])
        return reader, writer

    yield one
    for writer in lines:
        writer.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - nothing tells of bytes that came
            await asyncio.sleep(0.01)


@forms
async def test_over_the_clients_budget_a_body_is_429_with_retry_after(
    door: AwsHandler, budget: UnprovenBytes, begin: Begin, form: Form
) -> None:
    """In the form of its protocol; and once the first one has gone, the next is taken."""
    _, first = await begin(*json_call(door), 40 * KIB)
    await until(lambda: budget.used >= 39 * KIB)
    lines, body = form(door)
    answer = await door.send(lines, body)
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    assert b"ThrottlingException" in answer.body
    first.close()
    await until(lambda: not budget.used)
    assert (await door.send(lines, body)).status != 429


@forms
async def test_a_body_below_the_floor_is_cut(
    door: AwsHandler, budget: UnprovenBytes, begin: Begin, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    """408, after which SDKs try again; what it was charged is free."""
    monkeypatch.setattr(bodies, "FLOOR_SECONDS", 0.1)
    reader, writer = await begin(*form(door), 100)
    answer = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
    while not answer.done():
        writer.write(b"a")
        await asyncio.sleep(0.01)
    assert b" 408 " in await answer
    assert budget.used == 0


async def test_a_body_above_the_floor_is_read_to_its_end(
    door: AwsHandler, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long that takes in all."""
    monkeypatch.setattr(bodies, "FLOOR_SECONDS", 2.0)
    monkeypatch.setattr(bodies, "FLOOR_BYTES", 10)
    body = b'{"a":"' + b"a" * 600 + b'"}'
    reader, writer = await begin(door.signed(body=body), body, 0)
    for at in range(0, len(body), 20):
        writer.write(body[at : at + 20])
        await asyncio.sleep(0.1)
    assert b" 200 " in await asyncio.wait_for(reader.readuntil(b"\r\n"), 20)


async def test_a_slow_body_is_given_up_for_a_new_one_of_its_client(
    door: AwsHandler, budget: UnprovenBytes, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unproven_of, "GRACE_SECONDS", 0.0)
    reader, _ = await begin(*json_call(door), 40 * KIB)
    await until(lambda: budget.used >= 39 * KIB)
    await asyncio.sleep(1.0)  # 40 KiB in a second are less than 64
    assert (await door.send(*json_call(door))).status == 200
    assert b" 408 " in await asyncio.wait_for(reader.readuntil(b"\r\n"), 20)
    assert budget.used == 0


async def test_what_is_proven_is_charged_no_more(
    door: AwsHandler, budget: UnprovenBytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the rows are asked the budget is another's."""
    used = []

    async def call(*asked: object) -> dict[str, object]:
        used.append(budget.used)
        return {"repositories": []}

    monkeypatch.setattr(door.metadata, "call", call)
    assert (await door.send(*json_call(door))).status == 200
    assert used == [0]


async def test_a_body_that_is_longer_than_its_charge_is_proven_and_read_whole(
    door: AwsHandler, budget: UnprovenBytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is set aside on disk meanwhile: of 1 MB at most the charge is in memory."""
    budget._client = 2 * CHARGE_MAX
    seen = []

    async def call(account: str, operation: str, parameters: dict[str, object]) -> dict[str, object]:
        seen.append(parameters)
        return {"repositories": []}

    monkeypatch.setattr(door.metadata, "call", call)
    given = {"a": "ab" * 500_000}
    body = json.dumps(given).encode()
    assert (await door.send(door.signed(body=body), body)).status == 200
    assert seen == [given]
    assert budget.peak() <= CHARGE_MAX


async def test_who_is_refused_before_the_body_can_still_be_answered_on_the_connection(
    door: AwsHandler, budget: UnprovenBytes
) -> None:
    """An unknown key: reading goes on, so that the client can send the rest and hear why."""
    budget._client = CHARGE_MAX
    body = json.dumps({"a": "a" * 400 * KIB}).encode()
    answer = await door.send(door.signed(body=body, key=("AKIAUNKNOWN00000", ADMIN_KEY[1])), body)
    assert answer.error()[0] == "UnrecognizedClientException"
