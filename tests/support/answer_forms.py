"""What every answer must look like, whatever was asked: its protocol's own form, no failure of ours, no secret.

`judge` holds one answer to that and tells what it came to, for a tally. An error of an operation must be one that its
model declares, or one that AWS lists as common to all. Sources: "Common Errors" of the ECR, STS and IAM API references;
OCI Distribution 1.1.1 "Error Codes" and docker's four beside them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from xml.etree import ElementTree

from proxy.awsmodel import models
from support import response_shapes
from support.fuzz_input import Drawn
from support.memory_connection import Answer

COMMON: Mapping[str, frozenset[str]] = {
    "ecr": frozenset(
        {
            "AccessDeniedException",
            "ExpiredTokenException",
            "IncompleteSignatureException",
            "InvalidSignatureException",
            "MissingAuthenticationTokenException",
            "RequestEntityTooLargeException",
            "SerializationException",
            "UnknownOperationException",
            "UnrecognizedClientException",
        }
    ),
    "query": frozenset(
        {
            "AccessDenied",
            "ExpiredToken",
            "IncompleteSignature",
            "InvalidAction",
            "InvalidClientTokenId",
            "MalformedInput",
            "MissingAuthenticationToken",
            "RequestEntityTooLarge",
            "SignatureDoesNotMatch",
            "ValidationError",
        }
    ),
}
_ANSWERED_ALL_THE_SAME: Mapping[tuple[str, str], str] = {
    ("iam", "GetAccessKeyLastUsed"): "NoSuchEntity",  # the model has no word at all for a key that is not there
    ("iam", "CreateRole"): "NoSuchEntity",  # of a boundary; the model says so of CreateUser's
}
"""Errors that AWS answers, and its models leave out."""

OCI_CODES = frozenset(
    (
        *("BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN"),
        *("MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN", "SIZE_INVALID", "UNAUTHORIZED"),
        *("DENIED", "UNSUPPORTED", "TOOMANYREQUESTS", "TAG_INVALID", "UNAVAILABLE"),
    )
)
_SUCCEEDED = frozenset({200, 201, 202, 204, 206, 304, 307})
_CHUNK = 16  # letters of a secret that must not be seen together; any 31 of them hold one such chunk


class Secrets:
    """Texts that no answer and no log line may hold a piece of."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._chunks = [
            text[at : at + _CHUNK].encode() for text in texts for at in range(0, len(text) - _CHUNK + 1, _CHUNK)
        ]

    def seen_in(self, content: bytes) -> bool:
        return any(chunk in content for chunk in self._chunks)


def judge(drawn: Drawn, answer: Answer | None, secrets: Secrets) -> str:
    """What it came to: a status and a word. AssertionError for what nobody may be answered."""
    if answer is None:
        assert not drawn.whole, "a whole request was left without an answer"
        return "no answer"
    assert not (drawn.whole and answer.behind), "more than one answer came"
    assert answer.status < 500 or _is_taken(drawn, answer), f"{answer.status} {answer.body[:2000]!r}"
    told = "\n".join(answer.headers.values()).encode("utf-8", "surrogateescape") + answer.body
    assert not secrets.seen_in(told), "a secret is in the answer"
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if drawn.is_head:
        return str(answer.status)
    if drawn.said_in == "oci":
        return _oci(answer)
    if drawn.said_in == "link":
        return _linked(drawn, answer)
    if drawn.whole and drawn.said_in:
        wanted = "application/x-amz-json-1.1" if drawn.said_in == "ecr" else "text/xml"
        assert kind == wanted, f"{drawn.said_in} was answered in {kind}: {answer.status} {answer.body[:300]!r}"
    if kind == "application/x-amz-json-1.1":
        return _json(drawn, answer)
    if kind == "text/xml":
        return _xml(drawn, answer)
    return _oci(answer)


def _is_taken(drawn: Drawn, answer: Answer) -> bool:
    """Whether it was told to try again as another request was writing to its upload: 503 with Retry-After, or the only
    word that ECR has for it. What is really wrong is in the log."""
    if answer.status == 503 and answer.headers.get("retry-after"):
        return (
            b"another request writes to this upload" in answer.body or b"lease on this upload was lost" in answer.body
        )
    is_of_upload = b"UploadLayerPart" in drawn.raw or b"CompleteLayerUpload" in drawn.raw
    return is_of_upload and answer.status == 500 and b"ServerException" in answer.body and b"try again" in answer.body


def _linked(drawn: Drawn, answer: Answer) -> str:
    """What is behind a link, if the link is as it was given."""
    if answer.status in (200, 206):
        assert drawn.signed_anew, "a link that was tampered with opens a layer"
        return str(answer.status)
    if not drawn.whole and answer.status == 400:
        return _oci(answer)
    assert answer.status in (403, 404, 405, 416), answer
    assert json.loads(answer.body).keys() == {"message"}, answer.body
    return str(answer.status)


def _json(drawn: Drawn, answer: Answer) -> str:
    assert answer.headers.get("x-amzn-requestid"), "an answer has a request id"
    if answer.status == 200:
        if drawn.said_in == "ecr" and drawn.operation:
            response_shapes.read("ecr", drawn.operation, answer.body)
        return "200"
    error = json.loads(answer.body)
    name, message = error["__type"], error["message"]
    assert isinstance(message, str), error
    declared = response_shapes.declared("ecr", drawn.operation) if drawn.operation and drawn.said_in == "ecr" else None
    assert name in COMMON["ecr"] or declared is None or name in declared, f"{drawn.operation} does not declare {name}"
    assert re.fullmatch("[A-Za-z]+", name), name
    return f"{answer.status} {name}"


def _xml(drawn: Drawn, answer: Answer) -> str:
    assert answer.headers.get("x-amzn-requestid"), "an answer has a request id"
    root = ElementTree.fromstring(answer.body)  # noqa: S314  # our own answer
    if answer.status == 200:
        if drawn.said_in in ("sts", "iam") and drawn.operation:
            response_shapes.read(drawn.said_in, drawn.operation, answer.body)
        return "200"
    space = root.tag.partition("}")[0] + "}"
    service = next(each for each in ("sts", "iam") if models.service(each)["metadata"]["xmlNamespace"] == space[1:-1])
    assert [child.tag for child in root] == [f"{space}Error", f"{space}RequestId"], root.tag
    found = {child.tag.removeprefix(space): child.text or "" for child in root[0]}
    assert list(found) == ["Type", "Code", "Message"], found
    assert found["Type"] == "Sender", found
    assert found["Message"], found
    name = found["Code"]
    if drawn.said_in in ("sts", "iam") and drawn.whole:
        assert service == drawn.said_in, f"{drawn.said_in} was answered as {service}"
        known = {
            *response_shapes.declared(service, drawn.operation),
            _ANSWERED_ALL_THE_SAME.get((service, drawn.operation)),
        }
        assert name in COMMON["query"] or name in known, f"{drawn.operation} does not declare {name}"
    return f"{answer.status} {name}"


def _oci(answer: Answer) -> str:
    if answer.status in _SUCCEEDED:
        return str(answer.status)
    if answer.status == 401:
        assert answer.body == b"Not Authorized\n", answer.body
        assert answer.headers["www-authenticate"].startswith('Basic realm="http'), answer.headers
        return "401"
    assert answer.headers["content-type"].partition(";")[0] == "application/json", answer.headers
    document = json.loads(answer.body)
    assert set(document) == {"errors"}, document
    (error,) = document["errors"]
    assert error.keys() <= {"code", "message", "detail"}, error
    assert error["code"] in OCI_CODES, error
    assert isinstance(error["message"], str), error
    return f"{answer.status} {error['code']}"
