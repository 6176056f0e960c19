"""Who somebody is, proved to a third party: a pre-signed GetCallerIdentity, as Kubernetes clusters take it for a token.

The token is made and looked at as aws-iam-authenticator and `aws eks get-token` do: the cluster's name is a header that
was signed, so that a token for one cluster is none for another, and the answer is asked for as JSON.
"""

from __future__ import annotations

import base64
import datetime
import http.client
import json
import time
import urllib.parse
from dataclasses import dataclass
from typing import Any

import boto3
import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from support.accounts import open_account
from support.server import Server

REGION = "us-east-1"
CLUSTER = "harbour"
HEADER = "x-k8s-aws-id"
PREFIX = "k8s-aws-v1."

_session = boto3.session.Session()


def token(server: Server, key: tuple[str, ...], cluster: str = CLUSTER, *, seconds: int = 60) -> str:
    """What kubectl sends as a Bearer token. `seconds` is X-Amz-Expires, which clusters' clients leave at 60."""
    url = f"{server.url}/?Action=GetCallerIdentity&Version=2011-06-15"
    request = AWSRequest("GET", url, headers={HEADER: cluster})
    botocore.auth.SigV4QueryAuth(Credentials(*key), "sts", REGION, expires=seconds).add_auth(request)
    return PREFIX + base64.urlsafe_b64encode(request.url.encode()).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class Verified:
    status: int
    document: dict[str, Any]

    @property
    def arn(self) -> str:
        assert self.status == 200, self.document
        arn: str = self.document["GetCallerIdentityResponse"]["GetCallerIdentityResult"]["Arn"]
        return arn

    @property
    def error(self) -> tuple[int, str, str]:
        found = self.document["Error"]
        return self.status, found["Code"], found["Message"]


def verify(server: Server, given: str, cluster: str = CLUSTER) -> Verified:
    """As the cluster does: asks the URL in the token, with its own name in the header."""
    packed = given.removeprefix(PREFIX)
    url = urllib.parse.urlsplit(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)).decode())
    line = http.client.HTTPConnection(server.address, timeout=30)
    try:
        line.request("GET", f"{url.path}?{url.query}", headers={HEADER: cluster, "Accept": "application/json"})
        answer = line.getresponse()
        assert answer.headers["Content-Type"] == "application/json"
        return Verified(answer.status, json.loads(answer.read()))
    finally:
        line.close()


def at(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Signatures from now on are of another time, by so many seconds."""
    moment = datetime.datetime.fromtimestamp(time.time() + seconds, datetime.UTC).replace(tzinfo=None)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_, **__: moment)


def client(server: Server, service: str, key: tuple[str, ...]) -> Any:
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    return _session.client(service, endpoint_url=server.url, region_name=REGION, **dict(zip(names, key, strict=False)))


def temporary(answer: dict[str, Any]) -> tuple[str, ...]:
    found = answer["Credentials"]
    return found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"]


def test_a_cluster_learns_who_holds_a_key(server: Server) -> None:
    key = server.credentials()
    found = verify(server, token(server, key))
    assert found.arn == "arn:aws:iam::123456789012:user/administrator"
    result = found.document["GetCallerIdentityResponse"]
    assert result["GetCallerIdentityResult"] == {
        name: client(server, "sts", key).get_caller_identity()[name] for name in ("Account", "Arn", "UserId")
    }
    assert result["ResponseMetadata"]["RequestId"]


def test_a_cluster_learns_which_session_of_a_role_it_is(server: Server) -> None:
    """Both kinds of temporary credentials travel with their token in the query."""
    account = "310000000001"
    owner = open_account(server, account)
    iam = client(server, "iam", owner)
    trust = {"Effect": "Allow", "Principal": {"AWS": account}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    role = iam.create_role(RoleName="nodes", AssumeRolePolicyDocument=document)["Role"]
    taken = client(server, "sts", owner).assume_role(RoleArn=role["Arn"], RoleSessionName="node-7")
    found = verify(server, token(server, temporary(taken)))
    assert found.arn == f"arn:aws:sts::{account}:assumed-role/nodes/node-7"
    own = temporary(client(server, "sts", owner).get_session_token())
    assert verify(server, token(server, own)).arn == f"arn:aws:iam::{account}:user/administrator"

    iam.delete_role(RoleName="nodes")
    status, name, _ = verify(server, token(server, temporary(taken))).error
    assert (status, name) == (403, "InvalidClientTokenId")


def test_a_token_for_one_cluster_is_none_for_another(server: Server) -> None:
    given = token(server, server.credentials(), "harbour")
    assert verify(server, given, "harbour").status == 200
    status, name, _ = verify(server, given, "lagoon").error
    assert (status, name) == (403, "SignatureDoesNotMatch")


@pytest.mark.parametrize("expires", [1, 60, 3600])
def test_it_holds_for_a_quarter_of_an_hour_whatever_it_says_itself(
    server: Server, monkeypatch: pytest.MonkeyPatch, expires: int
) -> None:
    at(monkeypatch, -14 * 60)
    assert verify(server, token(server, server.credentials(), seconds=expires)).status == 200
    at(monkeypatch, -16 * 60)
    status, name, text = verify(server, token(server, server.credentials(), seconds=expires)).error
    assert (status, name) == (403, "SignatureDoesNotMatch")
    assert text.startswith("Signature expired: ")
    assert text.endswith(" - 15 min.)")


def test_one_of_the_future_is_not_taken(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, 16 * 60)
    _, name, text = verify(server, token(server, server.credentials())).error
    assert (name, text.startswith("Signature not yet current: ")) == ("SignatureDoesNotMatch", True)


def test_a_token_cannot_be_turned_to_another_action(server: Server) -> None:
    packed = token(server, server.credentials()).removeprefix(PREFIX)
    url = base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)).decode()
    for other in ("GetSessionToken", "GetAccessKeyInfo"):
        turned = base64.urlsafe_b64encode(url.replace("GetCallerIdentity", other).encode()).decode().rstrip("=")
        assert verify(server, PREFIX + turned).error[1] == "SignatureDoesNotMatch"
