"""Answers have AWS's form; bodies, targets and forms that will not do are named, at bounded cost."""

from __future__ import annotations

import asyncio
import email.utils
import gzip
import html
import json
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import botocore.session
import pytest

from proxy.ecr import routes
from proxy.ecr.bodies import INLINE_MAX
from proxy.ecr.errors import ecr_error, query_error
from proxy.ecr.layers import PARTS_AT_ONCE
from proxy.ecr.routes import LARGE_AT_ONCE, ROUTES
from proxy.ecr.services import FORM_MAX, JSON_MAX, MANIFEST_JSON_MAX
from proxy.model.errors import Code, Failure
from support.aws_handler import ADMIN_KEY, EVE_KEY, FORM, TARGET, Answer, AwsHandler


async def test_a_sound_request_is_answered(door: AwsHandler) -> None:
    answer = await door.send(door.signed())
    assert (answer.status, json.loads(answer.body)) == (200, {"repositories": []})
    assert answer.headers["content-type"] == "application/x-amz-json-1.1"


@pytest.mark.parametrize("good", [True, False], ids=["answer", "error"])
async def test_every_answer_has_a_request_id_and_a_right_date(door: AwsHandler, good: bool) -> None:
    lines = door.signed() if good else [("Host", door.address)]
    answer = await door.send(lines)
    assert str(uuid.UUID(answer.headers["x-amzn-requestid"])) == answer.headers["x-amzn-requestid"]
    told = email.utils.parsedate_to_datetime(answer.headers["date"]).timestamp()
    assert abs(told - time.time()) < 5


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
    "very-deep": b"[" * (JSON_MAX - 10),
    "nul": b"\x00",
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
async def test_a_body_that_is_no_sound_json_object_is_a_serialization_exception(door: AwsHandler, body: bytes) -> None:
    answer = await door.send(door.signed(body=body), body)
    assert (answer.status, answer.error()[0]) == (400, "SerializationException")
    assert door.metadata.calls == []


async def test_an_empty_body_is_an_empty_object(door: AwsHandler) -> None:
    assert (await door.send(door.signed(body=b""), b"")).status == 200


async def test_a_wide_body_within_the_limit_is_fine(door: AwsHandler) -> None:
    body = json.dumps({"repositoryNames": ["a/b"], "x": [[]] * 200}).encode()
    assert (await door.send(door.signed(body=body), body)).error()[0] == "RepositoryNotFoundException"


async def test_a_body_over_the_limit_is_refused_before_it_is_sent(door: AwsHandler) -> None:
    answer = await asyncio.wait_for(door.answer_before_body(door.signed(), JSON_MAX + 1), 5)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"RequestEntityTooLargeException"' in answer


async def test_putimage_may_have_the_body_that_its_manifest_needs_and_no_other_operation(door: AwsHandler) -> None:
    for operation, limit in (("PutImage", MANIFEST_JSON_MAX), ("BatchGetImage", JSON_MAX), ("NoSuch", JSON_MAX)):
        answer = await asyncio.wait_for(door.answer_before_body(door.signed(operation), limit + 1), 5)
        assert answer.startswith(b"HTTP/1.1 413 ")
    body = json.dumps({"repositoryName": "a/b", "imageManifest": "ü" * 2**20}).encode()
    assert len(body) > JSON_MAX
    assert (await door.send(door.signed("PutImage", body), body)).error()[0] == "RepositoryNotFoundException"
    assert (await door.send(door.signed("ListImages", body), body)).status == 413


@pytest.mark.parametrize(
    ("operation", "answer"),
    [
        ("BatchGetImage", lambda length: {"images": [{"imageManifest": "x" * length}], "failures": []}),
        ("PutImage", lambda length: {"image": {"imageManifest": "x" * length}}),
        ("ListImageReferrers", lambda length: {"referrers": [{"size": length}]}),
    ],
)
async def test_a_large_answer_is_written_off_the_loop(
    door: AwsHandler, monkeypatch: pytest.MonkeyPatch, operation: str, answer: Callable[[int], Any]
) -> None:
    threads = []

    def rendered(found: Any) -> bytes:
        threads.append(threading.get_ident())
        return b"{}"

    monkeypatch.setattr(routes, "_rendered", rendered)
    for length in (INLINE_MAX, INLINE_MAX + 1):

        async def call(*asked: Any, length: int = length) -> Any:
            return answer(length)

        monkeypatch.setattr(door.metadata, "call", call)
        body = json.dumps({"repositoryName": "a/b", "imageManifest": "x" * length}).encode()
        body = body if operation == "PutImage" else b'{"repositoryName":"a/b"}'
        assert (await door.send(door.signed(operation, body), body)).status == 200
    assert threads[0] == threading.get_ident() != threads[1]


async def test_a_few_large_bodies_are_taken_at_once_and_the_next_waits(
    door: AwsHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever only knows a key's name may send them too: they are held before the signature is known to be right."""
    held, release = asyncio.Semaphore(0), asyncio.Event()

    async def call(account: str, operation: str, parameters: Any) -> Any:
        if len(parameters["imageManifest"]) > 1:
            held.release()
            await release.wait()
        return {"image": {}}

    monkeypatch.setattr(door.metadata, "call", call)

    def put(length: int, key: tuple[str, str] = ADMIN_KEY) -> asyncio.Task[Answer]:
        body = json.dumps({"repositoryName": "a/b", "imageManifest": "x" * length}).encode()
        return asyncio.create_task(door.send(door.signed("PutImage", body, key=key), body))

    waiting = [put(JSON_MAX) for _ in range(LARGE_AT_ONCE + 1)]
    for _ in range(LARGE_AT_ONCE - 1):  # an account's share
        await asyncio.wait_for(held.acquire(), 20)
    waiting.append(put(JSON_MAX, EVE_KEY))
    await asyncio.wait_for(held.acquire(), 20)
    assert (await put(1)).status == 200
    assert held.locked()
    release.set()
    assert [answer.status for answer in await asyncio.gather(*waiting)] == [200] * (LARGE_AT_ONCE + 2)


async def test_bodies_that_never_come_hold_no_other_account_up(door: AwsHandler) -> None:
    lines = []
    try:
        for operation, count in (("PutImage", LARGE_AT_ONCE + 1), ("UploadLayerPart", PARTS_AT_ONCE + 1)):
            head = "".join(f"{name}: {value}\r\n" for name, value in door.signed(operation))
            for _ in range(count):
                lines.append(await asyncio.open_connection(*door.address.split(":")))
                lines[-1][1].write(f"POST / HTTP/1.1\r\n{head}Content-Length: {2 * JSON_MAX}\r\n\r\n".encode())
        for operation in ("PutImage", "UploadLayerPart"):
            body = json.dumps({"repositoryName": "a/b", "imageManifest": "x" * JSON_MAX}).encode()
            body = body if operation == "PutImage" else b'{"repositoryName":"a/b","layerPartBlob":"AAAA"}'
            answer = await door.send(door.signed(operation, body, key=EVE_KEY), body)
            assert answer.status == 400
    finally:
        for _, writer in lines:
            writer.close()


async def test_a_chunked_body_is_cut_off_at_the_limit(door: AwsHandler) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    lines = [*door.signed(), ("Transfer-Encoding", "chunked")]
    answer = await door.send(lines, chunk * 17 + b"0\r\n\r\n")
    assert (answer.status, answer.error()[0]) == (413, "RequestEntityTooLargeException")


async def test_a_chunked_body_within_the_limit_is_read(door: AwsHandler) -> None:
    lines = [*door.signed(), ("Transfer-Encoding", "chunked")]
    assert (await door.send(lines, b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n")).status == 200


async def test_bad_chunk_framing_reaches_no_operation(door: AwsHandler) -> None:
    answer = await door.send([*door.signed(), ("Transfer-Encoding", "chunked")], b"zz\r\n{}\r\n0\r\n\r\n")
    assert answer.status == 400
    assert door.metadata.calls == []


async def test_a_compressed_body_is_not_inflated(door: AwsHandler) -> None:
    body = gzip.compress(b"{}")
    answer = await door.send([*door.signed(body=body), ("Content-Encoding", "gzip")], body)
    assert (answer.status, answer.error()[0]) == (415, "SerializationException")


async def test_continue_is_said_when_the_claim_is_good(door: AwsHandler) -> None:
    answer = await door.send([*door.signed(), ("Expect", "100-continue")])
    assert answer.status == 100
    assert b"HTTP/1.1 200 OK" in answer.body


async def test_continue_is_not_said_to_an_unknown_key(door: AwsHandler) -> None:
    lines = door.signed(key=("AKIANOBODYNOBODY", "x"))
    assert (await door.send([*lines, ("Expect", "100-continue")])).status == 400


UNSERVED = sorted(set(botocore.session.get_session().get_service_model("ecr").operation_names) - set(ROUTES))


@pytest.mark.parametrize("operation", UNSERVED)
async def test_every_other_operation_of_the_model_is_refused_by_name(door: AwsHandler, operation: str) -> None:
    answer = await door.send(door.signed(operation))
    assert (answer.status, answer.error()[0]) == (400, "UnknownOperationException")
    assert f"The operation {operation} is not supported" in answer.error()[1]
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
async def test_a_target_that_is_not_in_the_table_is_an_unknown_operation(door: AwsHandler, target: str) -> None:
    answer = await door.send(door.signed(headers={"X-Amz-Target": target}))
    assert (answer.status, answer.error()[0]) == (400, "UnknownOperationException")
    assert len(answer.body) < 300


async def test_no_target_with_an_ecr_signature_is_refused(door: AwsHandler) -> None:
    answer = await door.send(door.signed(headers={"Content-Type": "application/json"}))
    assert answer.status == 400
    assert answer.error()[0] == "IncompleteSignatureException"


# ---- sts -------------------------------------------------------------------------------------------------------------


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
        (b"&".join(b"a%d=1" % i for i in range(1001)), "MalformedInput"),
    ],
)
async def test_a_form_that_sts_does_not_know_is_an_xml_error(door: AwsHandler, body: bytes, name: str) -> None:
    answer = await door.send(door.signed(body=body, service="sts", headers=FORM), body)
    text = answer.body.decode()
    assert (answer.status, answer.headers["content-type"]) == (400, "text/xml")
    assert f"<Code>{name}</Code>" in text
    assert text.isprintable()
    assert f"<RequestId>{answer.headers['x-amzn-requestid']}</RequestId>" in text


async def test_an_unsigned_form_is_answered_in_xml(door: AwsHandler) -> None:
    answer = await door.send([("Host", door.address), *FORM.items()], b"Action=GetCallerIdentity")
    assert (answer.status, b"<Code>MissingAuthenticationToken</Code>" in answer.body) == (403, True)


async def test_a_form_signed_for_a_service_that_is_not_here_is_told_so_in_xml(door: AwsHandler) -> None:
    body = b"Action=ListQueues&Version=2012-11-05"
    answer = await door.send(door.signed(body=body, service="sqs", headers=FORM), body)
    assert answer.status == 403
    assert "Credential should be scoped to correct service: 'sts'." in html.unescape(answer.body.decode())


async def test_an_error_stands_in_the_namespace_of_its_service(door: AwsHandler) -> None:
    for service, namespace in (
        ("iam", b"iam.amazonaws.com/doc/2010-05-08"),
        ("sts", b"sts.amazonaws.com/doc/2011-06-15"),
    ):
        answer = await door.send(door.signed(body=b"Action=No", service=service, headers=FORM), b"Action=No")
        assert b'<ErrorResponse xmlns="https://' + namespace + b'/">' in answer.body
        assert b"<Type>Sender</Type><Code>InvalidAction</Code>" in answer.body


async def test_what_needs_no_signature_is_answered_without_one_and_nothing_else(door: AwsHandler) -> None:
    plain = [("Host", door.address), *FORM.items()]
    body = b"Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=x"
    answer = await door.send(plain, body)
    assert (answer.status, b"<Code>ValidationError</Code>" in answer.body) == (400, True)
    for body in (b"Action=AssumeRole&Version=2011-06-15", b"Version=2011-06-15", b""):
        answer = await door.send(plain, body)
        assert (answer.status, b"<Code>MissingAuthenticationToken</Code>" in answer.body) == (403, True)
    answer = await door.send(plain, b"Action=AssumeRoleWithWebIdentity&" + b"a" * 70_000)
    assert (answer.status, b"<Code>RequestEntityTooLarge</Code>" in answer.body) == (413, True)


async def test_an_sts_body_over_its_limit_is_refused(door: AwsHandler) -> None:
    lines = door.signed(service="sts", headers=FORM)
    answer = await asyncio.wait_for(door.answer_before_body(lines, FORM_MAX + 1), 5)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"<Code>RequestEntityTooLarge</Code>" in answer


# ---- every failure has a form ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", list(Code))
def test_every_failure_is_spelled_as_an_exception_of_aws(code: Code) -> None:
    wire = ecr_error(Failure(code, "x"))
    assert wire.name.endswith("Exception")
    assert wire.status in {400, 403, 500}
    assert (wire.status == 500) == (wire.name == "ServerException")
    query = query_error(Failure(code, "x"))
    assert not query.name.endswith("DeniedException")
    assert query.status in {400, 403, 404, 409, 500}
    assert (query.status == 500) == (query.name in {"InternalFailure", "Evaluation"})
    assert query.name != "InvalidParameterException"  # ecr's word for what is ValidationError to the others
