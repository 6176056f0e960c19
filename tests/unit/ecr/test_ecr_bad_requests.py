"""What is wrong with a request is named in AWS's words, before more of it is read than needed, and nothing leaks."""

from __future__ import annotations

import asyncio
import email.utils
import gzip
import json
import logging
import re
import time
import uuid
from collections.abc import Callable
from typing import Any

import botocore.session
import pytest
import structlog
from fakes.aws_door import ADMIN_KEY, TARGET, Answer, AwsDoor

from proxy.ecr.errors import ecr_error, sts_error
from proxy.ecr.routes import BODY_MAX, ROUTES
from proxy.model.errors import Code, Failure

Lines = list[tuple[str, str]]


def error(answer: Answer) -> tuple[str, str]:
    document = json.loads(answer.body)
    assert set(document) == {"__type", "message"}
    return document["__type"], document["message"]


def replaced(lines: Lines, name: str, change: Callable[[str], str]) -> Lines:
    return [(each, change(value) if each.lower() == name.lower() else value) for each, value in lines]


def without(lines: Lines, name: str) -> Lines:
    return [(each, value) for each, value in lines if each.lower() != name.lower()]


async def test_a_sound_request_is_answered(door: AwsDoor) -> None:
    answer = await door.send(door.signed())
    assert (answer.status, json.loads(answer.body)) == (200, {"repositories": []})
    assert answer.headers["content-type"] == "application/x-amz-json-1.1"


@pytest.mark.parametrize("good", [True, False], ids=["answer", "error"])
async def test_every_answer_has_a_request_id_and_a_right_date(door: AwsDoor, good: bool) -> None:
    lines = door.signed() if good else [("Host", door.address)]
    answer = await door.send(lines)
    assert str(uuid.UUID(answer.headers["x-amzn-requestid"])) == answer.headers["x-amzn-requestid"]
    told = email.utils.parsedate_to_datetime(answer.headers["date"]).timestamp()
    assert abs(told - time.time()) < 5


# ---- signature -------------------------------------------------------------------------------------------------------


def _last_digit_changed(authorization: str) -> str:
    return authorization[:-1] + ("0" if authorization[-1] != "0" else "1")


BAD_SIGNATURES: dict[str, tuple[Callable[[AwsDoor], Lines], str, str]] = {
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
async def test_a_bad_signature_is_named(door: AwsDoor, lines: Callable[[AwsDoor], Lines], name: str, text: str) -> None:
    answer = await door.send(lines(door))
    assert answer.status == 400
    assert error(answer)[0] == name
    assert text in error(answer)[1]
    assert door.metadata.calls == []


@pytest.mark.parametrize("name", ["Host", "Content-Type", "Content-Length", "Transfer-Encoding"])
async def test_two_of_what_frames_a_request_reach_no_operation(door: AwsDoor, name: str) -> None:
    answer = await door.send([*door.signed(), *[(name, "3")] * (1 if name in {"Host", "Content-Type"} else 2)])
    assert answer.status == 400
    assert door.metadata.calls == []


async def test_a_body_that_was_changed_under_way_is_refused(door: AwsDoor) -> None:
    answer = await door.send(door.signed(body=b'{"maxResults":1}'), b'{"maxResults":2}')
    assert error(answer)[0] == "InvalidSignatureException"


@pytest.mark.parametrize(
    ("shift", "text"), [(301, "Signature expired: "), (-301, "Signature not yet current: ")], ids=["old", "future"]
)
async def test_a_signature_more_than_five_minutes_off_is_refused(door: AwsDoor, shift: int, text: str) -> None:
    door.clock_shift = shift
    name, message = error(await door.send(door.signed()))
    assert name == "InvalidSignatureException"
    assert message.startswith(text)
    assert message.endswith(" 5 min.)")


async def test_a_signature_four_minutes_off_is_taken(door: AwsDoor) -> None:
    door.clock_shift = 240
    assert (await door.send(door.signed())).status == 200


async def test_a_presigned_url_is_named_for_what_it_is(door: AwsDoor) -> None:
    answer = await door.send(
        [("Host", door.address)], b"", target="/?Action=GetCallerIdentity&X-Amz-Signature=00&X-Amz-Credential=x"
    )
    assert error(answer)[0] == "IncompleteSignatureException"
    assert "Pre-signed" in error(answer)[1]


@pytest.mark.parametrize("kind", ["unknown-key", "wrong-region", "none"])
async def test_a_claim_that_does_not_count_is_refused_before_the_body_is_read(door: AwsDoor, kind: str) -> None:
    lines, name, _ = BAD_SIGNATURES[kind]
    answer = await asyncio.wait_for(_answer_before_body(door, lines(door)), 5)
    assert name.encode() in answer


async def _answer_before_body(door: AwsDoor, lines: Lines, length: int = 1000) -> bytes:
    """Announce a body, send none of it, and read what is answered."""
    reader, writer = await asyncio.open_connection(*door.address.split(":"))
    try:
        head = "".join(f"{name}: {value}\r\n" for name, value in (*lines, ("Content-Length", str(length))))
        writer.write(f"POST / HTTP/1.1\r\n{head}\r\n".encode())
        header = await reader.readuntil(b"\r\n\r\n")
        answered = re.search(rb"(?i)content-length: (\d+)", header)
        assert answered is not None
        return header + await reader.readexactly(int(answered[1]))
    finally:
        writer.close()


async def test_a_wrong_region_costs_no_look_up(door: AwsDoor) -> None:
    await door.send(door.signed(region="eu-west-1"))
    assert door.metadata.looked_up == []


async def test_a_key_whose_secret_no_master_key_opens_is_our_fault(door: AwsDoor) -> None:
    row = door.metadata.keys[ADMIN_KEY[0]]
    door.metadata.keys[ADMIN_KEY[0]] = type(row)(row.access_key_id, b"\x01\x01x" + row.sealed_secret, row.principal)
    with structlog.testing.capture_logs() as logged:
        answer = await door.send(door.signed())
    assert (answer.status, error(answer)[0]) == (500, "ServerException")
    assert [ADMIN_KEY[0] in str(line) for line in logged] == [True]


# ---- body ------------------------------------------------------------------------------------------------------------

BAD_BODIES: dict[str, bytes] = {
    "not-json": b"repositoryName=x",
    "cut": b'{"repositoryName":',
    "list": b"[]",
    "text": b'"x"',
    "null": b"null",
    "two": b"{}{}",
    "nan": b'{"maxResults":NaN}',
    "huge-number": b'{"maxResults":' + b"9" * 5000 + b"}",
    "not-utf8": b'{"repositoryName":"\xff"}',
    "utf16": "{}".encode("utf-16"),
    "surrogate": b'{"repositoryName":"\\ud800"}',
    "deep": b'{"a":' * 100 + b"1" + b"}" * 100,
    "very-deep": b"[" * (BODY_MAX - 10),
    "nul": b"\x00",
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
async def test_a_body_that_is_no_sound_json_object_is_a_serialization_exception(door: AwsDoor, body: bytes) -> None:
    answer = await door.send(door.signed(body=body), body)
    assert (answer.status, error(answer)[0]) == (400, "SerializationException")
    assert door.metadata.calls == []


async def test_an_empty_body_is_an_empty_object(door: AwsDoor) -> None:
    assert (await door.send(door.signed(body=b""), b"")).status == 200


async def test_a_wide_body_within_the_limit_is_fine(door: AwsDoor) -> None:
    body = json.dumps({"repositoryNames": ["a/b"], "x": [[]] * 200}).encode()
    assert error(await door.send(door.signed(body=body), body))[0] == "RepositoryNotFoundException"


async def test_a_body_over_the_limit_is_refused_before_it_is_sent(door: AwsDoor) -> None:
    answer = await asyncio.wait_for(_answer_before_body(door, door.signed(), BODY_MAX + 1), 5)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"RequestEntityTooLargeException"' in answer


async def test_a_chunked_body_is_cut_off_at_the_limit(door: AwsDoor) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    lines = [*door.signed(), ("Transfer-Encoding", "chunked")]
    answer = await door.send(lines, chunk * 17 + b"0\r\n\r\n")
    assert (answer.status, error(answer)[0]) == (413, "RequestEntityTooLargeException")


async def test_a_chunked_body_within_the_limit_is_read(door: AwsDoor) -> None:
    lines = [*door.signed(), ("Transfer-Encoding", "chunked")]
    assert (await door.send(lines, b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n")).status == 200


async def test_bad_chunk_framing_reaches_no_operation(door: AwsDoor) -> None:
    answer = await door.send([*door.signed(), ("Transfer-Encoding", "chunked")], b"zz\r\n{}\r\n0\r\n\r\n")
    assert answer.status == 400
    assert door.metadata.calls == []


async def test_a_compressed_body_is_not_inflated(door: AwsDoor) -> None:
    body = gzip.compress(b"{}")
    answer = await door.send([*door.signed(body=body), ("Content-Encoding", "gzip")], body)
    assert (answer.status, error(answer)[0]) == (415, "SerializationException")


async def test_continue_is_said_when_the_claim_is_good(door: AwsDoor) -> None:
    answer = await door.send([*door.signed(), ("Expect", "100-continue")])
    assert answer.status == 100
    assert b"HTTP/1.1 200 OK" in answer.body


async def test_continue_is_not_said_to_an_unknown_key(door: AwsDoor) -> None:
    lines = door.signed(key=("AKIANOBODYNOBODY", "x"))
    assert (await door.send([*lines, ("Expect", "100-continue")])).status == 400


UNSERVED = sorted(set(botocore.session.get_session().get_service_model("ecr").operation_names) - set(ROUTES))


@pytest.mark.parametrize("operation", UNSERVED)
async def test_every_other_operation_of_the_model_is_refused_by_name(door: AwsDoor, operation: str) -> None:
    answer = await door.send(door.signed(operation))
    assert (answer.status, error(answer)[0]) == (400, "UnknownOperationException")
    assert f"The operation {operation} is not supported" in error(answer)[1]
    assert door.metadata.calls == []


# ---- target ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        TARGET + "NoSuchOperation",
        TARGET,
        TARGET + "listImages",
        "AmazonEC2ContainerRegistry_V20150921",
        "SpencerFrontendService.ListImages",
        "ListImages",
        "x",
        TARGET + "A" * 3000,
        TARGET + "<script>",
    ],
)
async def test_a_target_that_is_not_in_the_table_is_an_unknown_operation(door: AwsDoor, target: str) -> None:
    answer = await door.send(door.signed(headers={"X-Amz-Target": target}))
    assert (answer.status, error(answer)[0]) == (400, "UnknownOperationException")
    assert len(answer.body) < 300


async def test_no_target_with_an_ecr_signature_is_refused(door: AwsDoor) -> None:
    answer = await door.send(door.signed(headers={"Content-Type": "application/json"}))
    assert answer.status == 400
    assert error(answer)[0] == "IncompleteSignatureException"


# ---- sts -------------------------------------------------------------------------------------------------------------

FORM = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b"", "InvalidAction"),
        (b"Version=2011-06-15", "InvalidAction"),
        (b"Action=GetCallerIdentity&Version=2010-05-08", "InvalidAction"),
        (b"Action=%3Cx%3E%00&Version=2011-06-15", "InvalidAction"),
        (b"Action=GetCallerIdentity&Action=AssumeRole&Version=2011-06-15", "MalformedInput"),
        (b"Action", "MalformedInput"),
        (b"Action=%ff", "MalformedInput"),
        (b"\xff=1", "MalformedInput"),
        (b"&".join(b"a%d=1" % i for i in range(101)), "MalformedInput"),
    ],
)
async def test_a_form_that_sts_does_not_know_is_an_xml_error(door: AwsDoor, body: bytes, name: str) -> None:
    answer = await door.send(door.signed(body=body, service="sts", headers=FORM), body)
    text = answer.body.decode()
    assert (answer.status, answer.headers["content-type"]) == (400, "text/xml")
    assert f"<Code>{name}</Code>" in text
    assert text.isprintable()
    assert f"<RequestId>{answer.headers['x-amzn-requestid']}</RequestId>" in text


async def test_an_unsigned_form_is_answered_in_xml(door: AwsDoor) -> None:
    answer = await door.send([("Host", door.address), *FORM.items()], b"Action=GetCallerIdentity")
    assert (answer.status, b"<Code>MissingAuthenticationToken</Code>" in answer.body) == (403, True)


async def test_an_sts_body_over_its_limit_is_refused(door: AwsDoor) -> None:
    lines = door.signed(service="sts", headers=FORM)
    answer = await asyncio.wait_for(_answer_before_body(door, lines, 65 * 1024), 5)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"<Code>RequestEntityTooLarge</Code>" in answer


# ---- every failure has a form ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", list(Code))
def test_every_failure_is_spelled_as_an_exception_of_aws(code: Code) -> None:
    wire = ecr_error(Failure(code, "x"))
    assert wire.name.endswith("Exception")
    assert wire.status in {400, 403, 500}
    assert (wire.status == 500) == (wire.name == "ServerException")
    assert sts_error(Failure(code, "x")).status == wire.status


# ---- secrets ---------------------------------------------------------------------------------------------------------


async def test_no_secret_signature_or_token_is_in_any_log_line_or_error(
    door: AwsDoor, caplog: pytest.LogCaptureFixture
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
