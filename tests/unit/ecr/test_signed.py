"""Header or query, long-lived key or session, whole or chunked: who signed a request is known, or it is refused."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import boto3
import pytest

from proxy.auth.sigv4 import MISMATCH_TEXT
from proxy.awsmodel.query import read_form
from proxy.model.identity import AttachedPolicy
from support.signed_handler import (
    ACCOUNT,
    ALICE,
    JSON_HEADERS,
    KEY,
    PULLS,
    REGION,
    ROLE,
    SignedHandler,
)

FORM = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
INVALID = {"reason": "unknown key", "message": "The security token included in the request is invalid."}
MISMATCH = {"reason": "mismatch", "message": MISMATCH_TEXT}


@pytest.fixture
async def door() -> AsyncIterator[SignedHandler]:
    async with SignedHandler() as door:
        yield door


def headers_for(service: str) -> dict[str, str]:
    return JSON_HEADERS if service == "ecr" else FORM


# ---- every way to sign -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["ecr", "sts", "iam"])
async def test_a_signed_header_names_the_user(door: SignedHandler, service: str) -> None:
    answer = await door.send(door.signed(b"a=b", service=service, headers=headers_for(service)), b"a=b")
    assert (answer.status, answer.said) == (200, {"arn": ALICE.arn, "body": "a=b"})


@pytest.mark.parametrize(
    ("service", "region", "status"),
    [
        ("sts", "us-east-1", 200),
        ("iam", "us-east-1", 200),
        ("ecr", "us-east-1", 403),
        ("sts", "ap-south-1", 403),
        ("iam", "ap-south-1", 403),
    ],
)
async def test_the_global_region_counts_for_sts_and_iam_alone(
    door: SignedHandler, service: str, region: str, status: int
) -> None:
    answer = await door.send(door.signed(service=service, region=region, headers=headers_for(service)))
    assert answer.status == status
    if status == 403:
        assert answer.said["message"] == "Credential should be scoped to a valid region."


async def test_a_presigned_query_names_the_user_and_holds_the_form(door: SignedHandler) -> None:
    target, lines = door.presigned()
    answer = await door.send(lines, b"", target=target, method="GET")
    assert (answer.status, answer.said) == (200, {"arn": ALICE.arn, "body": ""})
    assert read_form(target.partition("?")[2].encode())["Action"] == "GetCallerIdentity"


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_boto3_presigns_for_an_operation_is_accepted(door: SignedHandler, method: str) -> None:
    """With a policy in the query, of letters that are spelled in several ways."""
    session = boto3.session.Session(KEY[0], KEY[1], region_name=REGION)
    client = await asyncio.to_thread(session.client, "sts", endpoint_url=f"http://{door.address}")
    policy = '{"Statement": [{"Sid": "a+b c~é*/"}]}'
    wanted = {"RoleArn": ROLE.arn, "RoleSessionName": "job", "Policy": policy}
    url = client.generate_presigned_url("assume_role", Params=wanted, HttpMethod=method)
    target = url.partition(door.address)[2]
    answer = await door.send([("Host", door.address)], b"", target=target, method=method)
    assert answer.said == {"arn": ALICE.arn, "body": ""}
    form = read_form(target.partition("?")[2].encode())
    assert {name: form[name] for name in wanted} == wanted


async def test_a_cluster_may_pass_on_a_query_that_a_session_presigned(door: SignedHandler) -> None:
    """As aws-iam-authenticator does it: the cluster's name is a signed header, the session token is in the query."""
    target, lines = door.presigned(key=door.session(), headers={"x-k8s-aws-id": "my-cluster"})
    door.clock_shift = 14 * 60
    answer = await door.send(lines, b"", target=target, method="GET")
    assert answer.said["arn"] == f"arn:aws:sts::{ACCOUNT}:assumed-role/ci/job-1"
    lines[-1] = ("x-k8s-aws-id", "another-cluster")
    assert (await door.send(lines, b"", target=target, method="GET")).said == MISMATCH


@pytest.mark.parametrize("expires", [1, 604_800])
async def test_a_presigned_query_for_sts_ends_after_fifteen_minutes(door: SignedHandler, expires: int) -> None:
    target, lines = door.presigned(expires=expires)
    door.clock_shift = 890
    assert (await door.send(lines, b"", target=target, method="GET")).status == 200
    door.clock_shift = 910
    answer = await door.send(lines, b"", target=target, method="GET")
    assert answer.said["message"].startswith("Signature expired: ")
    assert answer.said["message"].endswith(" - 15 min.)")


async def test_a_presigned_query_for_iam_ends_when_it_says(door: SignedHandler) -> None:
    target, lines = door.presigned("Action=ListUsers&Version=2010-05-08", service="iam", expires=1800)
    door.clock_shift = 1790
    assert (await door.send(lines, b"", target=target, method="GET")).status == 200
    door.clock_shift = 1810
    assert (await door.send(lines, b"", target=target, method="GET")).status == 403


async def test_a_presigned_ecr_call_must_have_signed_its_target(door: SignedHandler) -> None:
    for headers, status in ((JSON_HEADERS, 200), ({}, 403)):
        target, lines = door.presigned("", service="ecr", method="POST", headers=headers)
        if not headers:
            lines += list(JSON_HEADERS.items())
        assert (await door.send(lines, b"", target=target)).status == status


async def test_more_signed_headers_and_more_unsigned_ones_change_nothing(door: SignedHandler) -> None:
    """As the SDKs of Go and Java sign."""
    more = {
        "amz-sdk-invocation-id": "5f1c",
        "amz-sdk-request": "attempt=1; max=3",
        "Content-Length": "2",
        "X-Amz-Content-Sha256": hashlib.sha256(b"{}").hexdigest(),
    }
    lines = [*door.signed(headers=JSON_HEADERS | more), ("X-Forwarded-For", "10.0.0.1"), ("Via", "a"), ("Via", "b")]
    assert (await door.send(lines)).status == 200


async def test_a_body_in_chunks_is_hashed_as_one(door: SignedHandler) -> None:
    lines = [*door.signed(b'{"a":1}'), ("Transfer-Encoding", "chunked")]
    answer = await door.send(lines, b'3\r\n{"a\r\n4\r\n":1}\r\n0\r\n\r\n')
    assert answer.said["body"] == '{"a":1}'


async def test_a_signature_repeated_inside_its_time_is_answered_again(door: SignedHandler) -> None:
    lines = door.signed()
    assert [(await door.send(lines)).status for _ in range(3)] == [200, 200, 200]


@pytest.mark.parametrize(("service", "minutes"), [("ecr", 5), ("iam", 5), ("sts", 15)])
async def test_clocks_may_differ_by_what_the_service_allows(door: SignedHandler, service: str, minutes: int) -> None:
    lines = door.signed(service=service, headers=headers_for(service))
    for sign in (1, -1):
        door.clock_shift = sign * (minutes * 60 - 10)
        assert (await door.send(lines)).status == 200
        door.clock_shift = sign * (minutes * 60 + 10)
        answer = await door.send(lines)
        assert (answer.status, answer.said["reason"]) == (403, "mismatch")
        assert answer.said["message"].endswith(f" {minutes} min.)")


# ---- a body that is not what it says ---------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "0" * 64])
async def test_a_declared_hash_other_than_the_bodys_does_not_hold(door: SignedHandler, said: str) -> None:
    for lines in (
        door.signed(headers=JSON_HEADERS | {"X-Amz-Content-Sha256": said}),
        [*door.signed(), ("X-Amz-Content-Sha256", said)],
    ):
        assert (await door.send(lines)).said == MISMATCH


@pytest.mark.parametrize("codings", [("aws-chunked",), ("gzip",), ("identity,aws-chunked",), ("identity", "gzip")])
async def test_an_encoded_body_is_refused(door: SignedHandler, codings: tuple[str, ...]) -> None:
    answer = await door.send([*door.signed(), *(("Content-Encoding", coding) for coding in codings)])
    assert (answer.status, answer.said) == (415, {"reason": "SerializationException"})


# ---- sessions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["ecr", "sts", "iam"])
async def test_a_session_signs_with_its_own_key_and_its_token(door: SignedHandler, service: str) -> None:
    session = door.session()
    answer = await door.send(door.signed(service=service, key=session, headers=headers_for(service)))
    assert answer.said["arn"] == f"arn:aws:sts::{ACCOUNT}:assumed-role/ci/job-1"
    caller = door.callers[-1]
    assert caller.principal is ROLE
    assert (caller.access_key_id, caller.session_policies) == (session[0], None)


async def test_a_token_that_was_added_after_signing_counts(door: SignedHandler) -> None:
    key_id, secret, token = door.session()
    lines = [*door.signed(key=(key_id, secret)), ("X-Amz-Security-Token", token)]
    assert (await door.send(lines)).status == 200


async def test_what_narrows_a_session_is_looked_up_for_each_request(door: SignedHandler) -> None:
    session = door.session(policy='{"Statement":[]}', policy_arns=(PULLS.arn,))
    await door.send(door.signed(key=session))
    door.people.documents.clear()
    await door.send(door.signed(key=session))
    own = AttachedPolicy('{"Statement":[]}')
    assert [caller.session_policies for caller in door.callers] == [(own, PULLS), (own,)]


async def test_an_expired_session_says_so(door: SignedHandler) -> None:
    answer = await door.send(door.signed(key=door.session(issued=0.0, expires=1000.0)))
    assert answer.said == {"reason": "expired", "message": "The security token included in the request is expired"}


async def test_a_session_that_was_good_expires_although_its_token_was_kept(door: SignedHandler) -> None:
    session = door.session(expires=door.now() + 60)
    lines = door.signed(key=session)
    assert (await door.send(lines)).status == 200
    door.clock_shift = 61
    assert (await door.send(lines)).said["reason"] == "expired"


async def test_a_token_that_does_not_belong_to_the_key_is_invalid(door: SignedHandler) -> None:
    key_id, secret, token = door.session()
    other_id, other_secret, other_token = door.session()
    for key in (
        (key_id, secret, other_token),
        (key_id, secret),
        (key_id, secret, "garbage"),
        (key_id, secret, token[:-4]),
        (*KEY, token),
        (other_id, secret, token),
    ):
        assert (await door.send(door.signed(key=key))).said == INVALID
    assert (await door.send(door.signed(key=(key_id, other_secret, token)))).said == MISMATCH


async def test_a_session_ends_with_its_principal(door: SignedHandler) -> None:
    session = door.session()
    assert (await door.send(door.signed(key=session))).status == 200
    del door.people.principals[ROLE.principal_id]
    assert (await door.send(door.signed(key=session))).said == INVALID


async def test_a_key_ends_with_its_row(door: SignedHandler) -> None:
    assert (await door.send(door.signed())).status == 200
    door.people.keys.clear()
    assert (await door.send(door.signed())).said == INVALID


async def test_the_same_credentials_are_the_same_caller_while_nothing_changed(door: SignedHandler) -> None:
    session = door.session()
    for _ in range(2):
        await door.send(door.signed())
        await door.send(door.signed(key=session))
    row = door.people.keys[KEY[0]]
    door.people.keys[KEY[0]] = replace(row, principal=replace(ALICE, tags=(("team", "a"),)))
    await door.send(door.signed())
    first, of_session, second, of_session_again, changed = door.callers
    assert first is second
    assert of_session is of_session_again
    assert changed is not first


# ---- before the body -------------------------------------------------------------------------------------------------


async def test_what_cannot_hold_is_refused_before_the_body_comes(door: SignedHandler) -> None:
    key_id, secret, _ = door.session()
    over = door.session(issued=0.0, expires=1000.0)
    for lines, text in (
        (door.signed(key=(key_id, secret, "garbage")), b"is invalid"),
        (door.signed(key=over), b"is expired"),
        (door.signed(headers=JSON_HEADERS | {"X-Amz-Content-Sha256": "UNSIGNED-PAYLOAD"}), b"does not match"),
        (door.signed(region="us-west-2"), b"valid region"),
        (door.signed(key=("AKIANOBODY", "x")), b"is invalid"),
    ):
        answer = await door.cut_short([*lines, ("Expect", "100-continue")])
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert text in answer


# ---- last use --------------------------------------------------------------------------------------------------------


async def test_the_use_of_a_key_is_noted_once_an_hour_and_only_when_proven(door: SignedHandler) -> None:
    await door.send(door.signed(key=(KEY[0], "wrong")))
    await door.send(door.signed(key=door.session()))
    await door.uses.idle()
    assert door.people.uses == []
    for _ in range(3):
        await door.send(door.signed())
    await door.send(door.signed(service="sts", headers=FORM))
    await door.uses.idle()
    assert [(key, region, service) for key, _, region, service in door.people.uses] == [(KEY[0], "eu-west-1", "ecr")]
    assert abs(door.people.uses[0][1] - door.now()) < 60


# ---- anything at all -------------------------------------------------------------------------------------------------


async def test_no_damaged_head_is_a_fault_of_ours(door: SignedHandler) -> None:
    """Bytes of signed heads and targets exchanged, doubled and left out: answered, and never by 500."""
    chance = random.Random(20261124)
    statuses = set()
    for _ in range(400):
        if chance.random() < 0.5:
            target, lines = door.presigned(key=door.session() if chance.random() < 0.5 else KEY)
        else:
            target, lines = "/", door.signed(key=door.session() if chance.random() < 0.5 else KEY)
        for _ in range(chance.randrange(3)):
            place = chance.randrange(len(lines))
            name, value = lines[place]
            change = chance.randrange(4)
            if change == 0:
                lines.insert(place, (name, value))
            elif change == 1 and len(lines) > 1:
                del lines[place]
            else:
                lines[place] = (name, damaged(value, chance))
        if chance.random() < 0.5:
            target = "/" + damaged(target[1:], chance)
        answer = await door.send(lines, b"", target=target or "/", method=chance.choice(["GET", "POST"]))
        statuses.add(answer.status)
    assert 200 in statuses
    assert statuses <= {200, 400, 403, 415}


ODD = ("", "%", "%zz", "&", "=", "+", "/", ";", ",", "é", "\udc80", "\t", "A" * 70, "X-Amz-Date=1&")


def damaged(text: str, chance: random.Random) -> str:
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(text) + 1)
        some = chance.choice(ODD)
        text = text[:at] + some + text[at + chance.randrange(3) :]
    return text


# ---- keys that end --------------------------------------------------------------------------------------------------


async def test_a_key_that_its_age_has_ended_is_refused_as_one_that_is_unknown(door: SignedHandler) -> None:
    held = door.people.keys[KEY[0]]
    door.people.keys[KEY[0]] = replace(held, expires=door.now() + 100)
    assert (await door.send(door.signed(), b"{}")).status == 200
    door.people.keys[KEY[0]] = replace(held, expires=door.now() - 0.001)
    answer = await door.send(door.signed(), b"{}")
    assert (answer.status, answer.said) == (403, INVALID)


async def test_a_session_that_was_issued_before_a_revocation_is_refused_as_invalid(door: SignedHandler) -> None:
    key = door.session()
    assert (await door.send(door.signed(key=key), b"{}")).status == 200
    door.people.principals["AROAROLE"] = replace(ROLE, revoked=(("job-1", door.now()),))
    answer = await door.send(door.signed(key=key), b"{}")
    assert (answer.status, answer.said) == (403, INVALID)
    other = door.session(name="job-2")
    assert (await door.send(door.signed(key=other), b"{}")).status == 200
