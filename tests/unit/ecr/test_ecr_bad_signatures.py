"""A signature that does not count is named in AWS's words, before the body is read, and nothing secret leaks."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
import structlog

from proxy.model.errors import Code, Failure
from proxy.model.identity import Session, SessionKind
from support.aws_handler import ADMIN, ADMIN_KEY, FORM, TARGET, AwsHandler, Lines


def replaced(lines: Lines, name: str, change: Callable[[str], str]) -> Lines:
    return [(each, change(value) if each.lower() == name.lower() else value) for each, value in lines]


def without(lines: Lines, name: str) -> Lines:
    return [(each, value) for each, value in lines if each.lower() != name.lower()]


def _last_digit_changed(authorization: str) -> str:
    return authorization[:-1] + ("0" if authorization[-1] != "0" else "1")


BAD_SIGNATURES: dict[str, tuple[Callable[[AwsHandler], Lines], str, str]] = {
    "none": (
        lambda door: without(door.signed(), "Authorization"),
        "MissingAuthenticationTokenException",
        "Missing Authentication Token",
    ),
    "altered": (
        lambda door: replaced(door.signed(), "Authorization", _last_digit_changed),
        "InvalidSignatureException",
        "The request signature we calculated does not match",
    ),
    "wrong-secret": (
        lambda door: door.signed(key=(ADMIN_KEY[0], "wrong")),
        "InvalidSignatureException",
        "The request signature we calculated does not match",
    ),
    "unknown-key": (
        lambda door: door.signed(key=("AKIANOBODYNOBODY", "x")),
        "UnrecognizedClientException",
        "The security token included in the request is invalid.",
    ),
    "wrong-region": (
        lambda door: door.signed(region="eu-west-1"),
        "InvalidSignatureException",
        "Credential should be scoped to a valid region.",
    ),
    "wrong-service": (
        lambda door: door.signed(service="s3"),
        "InvalidSignatureException",
        "Credential should be scoped to correct service: 'ecr'.",
    ),
    "sts-signature-with-target": (
        lambda door: door.signed(service="sts"),
        "InvalidSignatureException",
        "Credential should be scoped to correct service: 'ecr'.",
    ),
    "session-token": (
        lambda door: door.signed(headers={"X-Amz-Target": TARGET + "ListImages", "X-Amz-Security-Token": "abc"}),
        "UnrecognizedClientException",
        "The security token included in the request is invalid.",
    ),
    "session-token-unsigned": (
        lambda door: [*door.signed(), ("X-Amz-Security-Token", "abc")],
        "UnrecognizedClientException",
        "The security token included in the request is invalid.",
    ),
    "target-unsigned": (
        lambda door: replaced(door.signed(), "Authorization", lambda v: v.replace(";x-amz-target", "")),
        "IncompleteSignatureException",
        "'x-amz-target' must be a 'SignedHeader'",
    ),
    "host-unsigned": (
        lambda door: replaced(door.signed(), "Authorization", lambda v: v.replace(";host", "")),
        "IncompleteSignatureException",
        "'Host' or ':authority' must be a 'SignedHeader'",
    ),
    "date-unsigned": (
        lambda door: replaced(door.signed(), "Authorization", lambda v: v.replace(";x-amz-date", "")),
        "IncompleteSignatureException",
        "'x-amz-date' must be a 'SignedHeader'",
    ),
    "date-missing": (
        lambda door: without(door.signed(), "X-Amz-Date"),
        "IncompleteSignatureException",
        "'X-Amz-Date'",
    ),
    "basic": (
        lambda door: replaced(door.signed(), "Authorization", lambda v: "Basic QVdTOmFiYw=="),
        "IncompleteSignatureException",
        "Unsupported AWS 'algorithm'",
    ),
    "target-of-another-operation": (
        lambda door: replaced(door.signed(), "X-Amz-Target", lambda v: TARGET + "DeleteRepository"),
        "InvalidSignatureException",
        "The request signature we calculated does not match",
    ),
    "two-dates": (
        lambda door: [*door.signed(), ("x-amz-date", "20200101T000000Z")],
        "IncompleteSignatureException",
        "'x-amz-date' must be sent once",
    ),
    "two-targets": (
        lambda door: [*door.signed(), ("X-Amz-Target", TARGET + "DeleteRepository")],
        "IncompleteSignatureException",
        "'x-amz-target' must be sent once",
    ),
    "two-authorizations": (
        lambda door: [*door.signed(), ("Authorization", door.signed()[-1][1])],
        "IncompleteSignatureException",
        "'authorization' must be sent once",
    ),
}


@pytest.mark.parametrize(("lines", "name", "text"), BAD_SIGNATURES.values(), ids=BAD_SIGNATURES.keys())
async def test_a_bad_signature_is_named(
    door: AwsHandler, lines: Callable[[AwsHandler], Lines], name: str, text: str
) -> None:
    answer = await door.send(lines(door))
    assert answer.status == 400
    assert answer.error()[0] == name
    assert text in answer.error()[1]
    assert door.metadata.calls == []


@pytest.mark.parametrize("name", ["Host", "Content-Type", "Content-Length", "Transfer-Encoding"])
async def test_two_of_what_frames_a_request_reach_no_operation(door: AwsHandler, name: str) -> None:
    answer = await door.send([*door.signed(), *[(name, "3")] * (1 if name in {"Host", "Content-Type"} else 2)])
    assert answer.status == 400
    assert door.metadata.calls == []


async def test_a_body_that_was_changed_under_way_is_refused(door: AwsHandler) -> None:
    answer = await door.send(door.signed(body=b'{"maxResults":1}'), b'{"maxResults":2}')
    assert answer.error()[0] == "InvalidSignatureException"


@pytest.mark.parametrize(
    ("shift", "text"), [(301, "Signature expired: "), (-301, "Signature not yet current: ")], ids=["old", "future"]
)
async def test_a_signature_more_than_five_minutes_off_is_refused(door: AwsHandler, shift: int, text: str) -> None:
    door.clock_shift = shift
    name, message = (await door.send(door.signed())).error()
    assert name == "InvalidSignatureException"
    assert message.startswith(text)
    assert message.endswith(" 5 min.)")


async def test_a_signature_four_minutes_off_is_taken(door: AwsHandler) -> None:
    door.clock_shift = 240
    assert (await door.send(door.signed())).status == 200


async def test_a_presigned_query_that_is_not_whole_says_what_it_lacks(door: AwsHandler) -> None:
    answer = await door.send(
        [("Host", door.address)], b"", target="/?Action=GetCallerIdentity&X-Amz-Signature=00&X-Amz-Credential=x"
    )
    assert answer.status == 400
    assert b"<Code>IncompleteSignature</Code>" in answer.body
    assert b"must include" in answer.body


@pytest.mark.parametrize(
    ("service", "headers", "status", "name"),
    [
        ("ecr", {"X-Amz-Target": TARGET + "ListImages"}, 400, b'"__type": "ExpiredTokenException"'),
        ("sts", FORM, 403, b"<Code>ExpiredToken</Code>"),
    ],
    ids=["ecr", "sts"],
)
async def test_an_expired_session_is_named_as_its_protocol_has_it(
    door: AwsHandler, service: str, headers: dict[str, str], status: int, name: bytes
) -> None:
    over = door.sessions.issue(ADMIN, Session(SessionKind.USER, "", 0.0, 1000.0))
    key = (over.access_key_id, over.secret)
    lines = door.signed(key=key, service=service, headers=headers | {"X-Amz-Security-Token": over.token})
    answer = await door.send(lines)
    assert answer.status == status
    assert name in answer.body
    assert b"The security token included in the request is expired" in answer.body


@pytest.mark.parametrize("kind", ["unknown-key", "wrong-region", "none"])
async def test_a_claim_that_does_not_count_is_refused_before_the_body_is_read(door: AwsHandler, kind: str) -> None:
    lines, name, _ = BAD_SIGNATURES[kind]
    answer = await asyncio.wait_for(door.answer_before_body(lines(door)), 5)
    assert name.encode() in answer


async def test_a_wrong_region_costs_no_look_up(door: AwsHandler) -> None:
    await door.send(door.signed(region="eu-west-1"))
    assert door.metadata.looked_up == []


async def test_a_key_whose_secret_no_master_key_opens_is_our_fault(door: AwsHandler) -> None:
    row = door.metadata.keys[ADMIN_KEY[0]]
    door.metadata.keys[ADMIN_KEY[0]] = type(row)(row.access_key_id, b"\x01\x01x" + row.sealed_secret, row.principal)
    with structlog.testing.capture_logs() as logged:
        answer = await door.send(door.signed())
    assert (answer.status, answer.error()[0]) == (500, "ServerException")
    assert [ADMIN_KEY[0] in str(line) for line in logged] == [True]


# ---- secrets ---------------------------------------------------------------------------------------------------------


async def test_no_secret_signature_or_token_is_in_any_log_line_or_error(
    door: AwsHandler, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[bytes] = []
    secrets: set[str] = {ADMIN_KEY[1]}

    async def send(lines: Lines, **more: Any) -> None:
        secrets.update(value.rpartition("Signature=")[2] for name, value in lines if name == "Authorization")
        said.append((await door.send(lines, **more)).body)

    with structlog.testing.capture_logs() as logged:
        for lines, _name, _text in BAD_SIGNATURES.values():
            await send(lines(door))
        door.clock_shift = 4000
        await send(door.signed())
        door.clock_shift = 0
        await send(door.signed(service="sts", headers=FORM))
        for failure in (Code.METADATA_UNAVAILABLE, Code.SERVER, Code.ACCESS_DENIED):
            door.metadata.fail_with = Failure(failure, "sentence", hint="hint")
            await send(door.signed())
        door.metadata.fail_with = None
        token = json.loads((await door.send(door.signed("GetAuthorizationToken"))).body)
        secrets.add(token["authorizationData"][0]["authorizationToken"])
    lines_logged = "\n".join(
        [*map(str, logged), *(r.getMessage() for r in caplog.records if r.name != "botocore.auth")]
    )
    assert "sentence" in lines_logged
    everything = lines_logged + b"\n".join(said).decode()
    assert [secret for secret in secrets if len(secret) > 20 and secret in everything] == []
