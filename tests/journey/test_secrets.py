"""Secrets Manager by boto3 and the aws command against a real server: values, labels, rights, and that none leaks."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from support.accounts import Key, open_account
from support.aws_command import Aws
from support.policies import allow, policy
from support.server import Server

REGION = "us-east-1"
NAME = "ecr-pullthroughcache/hub"
MARKER = "this-value-must-be-nowhere"

_session = boto3.session.Session()


def client(server: Server, key: Key, service: str = "secretsmanager") -> Any:
    return _session.client(
        service,
        endpoint_url=server.url,
        region_name=REGION,
        aws_access_key_id=key[0],
        aws_secret_access_key=key[1],
        config=Config(retries={"total_max_attempts": 1}),
    )


@pytest.fixture
def key(server: Server, account: str) -> Key:
    return open_account(server, account)


@pytest.fixture
def secrets(server: Server, key: Key) -> Any:
    return client(server, key)


def refused(method: Any, **asked: Any) -> tuple[str, str]:
    """The error's code, and its text."""
    with pytest.raises(ClientError) as caught:
        method(**asked)
    found = caught.value.response["Error"]
    return found["Code"], found["Message"]


def test_a_value_comes_back_as_it_was_given(secrets: Any, account: str) -> None:
    made = secrets.create_secret(Name=NAME, SecretString="first", Description="of the hub")
    arn = made["ARN"]
    assert arn.startswith(f"arn:aws:secretsmanager:{REGION}:{account}:secret:{NAME}-")
    assert len(arn.rpartition("-")[2]) == 6
    found = secrets.get_secret_value(SecretId=NAME)
    assert (found["ARN"], found["Name"], found["SecretString"]) == (arn, NAME, "first")
    assert (found["VersionId"], found["VersionStages"]) == (made["VersionId"], ["AWSCURRENT"])
    put = secrets.put_secret_value(SecretId=arn, SecretBinary=b"\0\xff")
    assert secrets.get_secret_value(SecretId=arn)["SecretBinary"] == b"\0\xff"
    before = secrets.get_secret_value(SecretId=arn, VersionStage="AWSPREVIOUS")
    assert (before["SecretString"], before["VersionId"]) == ("first", made["VersionId"])
    assert secrets.get_secret_value(SecretId=arn, VersionId=put["VersionId"])["SecretBinary"] == b"\0\xff"
    secrets.update_secret(SecretId=NAME, Description="new", SecretString="third")
    assert secrets.get_secret_value(SecretId=arn)["SecretString"] == "third"
    described = secrets.describe_secret(SecretId=arn)
    assert described["Description"] == "new"
    assert sorted(map(tuple, described["VersionIdsToStages"].values())) == [("AWSCURRENT",), ("AWSPREVIOUS",)]
    assert "ResourcePolicy" not in secrets.get_resource_policy(SecretId=arn)


def test_a_secret_without_a_value_has_none_until_it_is_given(secrets: Any) -> None:
    secrets.create_secret(Name="empty")
    code, text = refused(secrets.get_secret_value, SecretId="empty")
    assert code == "ResourceNotFoundException"
    assert text == "Secrets Manager can't find the specified secret value for staging label: AWSCURRENT"
    secrets.put_secret_value(SecretId="empty", SecretString="now")
    assert secrets.get_secret_value(SecretId="empty")["SecretString"] == "now"


def test_the_same_request_again_is_one_change_and_another_value_under_its_token_is_refused(secrets: Any) -> None:
    token = str(uuid.uuid4())
    made = [secrets.create_secret(Name="s", SecretString="one", ClientRequestToken=token)["ARN"] for _ in range(2)]
    assert made[0] == made[1]
    assert refused(secrets.create_secret, Name="s", SecretString="two")[0] == "ResourceExistsException"
    token = str(uuid.uuid4())
    asked = {"SecretId": "s", "ClientRequestToken": token}
    first, again = (secrets.put_secret_value(**asked, SecretString="two") for _ in range(2))
    assert {**first, "ResponseMetadata": 0} == {**again, "ResponseMetadata": 0}
    assert refused(secrets.put_secret_value, **asked, SecretString="three")[0] == "ResourceExistsException"
    assert secrets.get_secret_value(SecretId="s")["SecretString"] == "two"


def test_a_deleted_secret_can_be_restored_and_one_deleted_at_once_cannot(secrets: Any) -> None:
    arn = secrets.create_secret(Name="s", SecretString="one")["ARN"]
    secrets.delete_secret(SecretId=arn, RecoveryWindowInDays=7)
    code, text = refused(secrets.get_secret_value, SecretId=arn)
    assert (code, "marked for deletion" in text) == ("InvalidRequestException", True)
    assert secrets.describe_secret(SecretId=arn)["DeletedDate"]
    secrets.restore_secret(SecretId=arn)
    assert secrets.get_secret_value(SecretId=arn)["SecretString"] == "one"
    secrets.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)
    assert refused(secrets.describe_secret, SecretId=arn)[0] == "ResourceNotFoundException"
    assert refused(secrets.restore_secret, SecretId=arn)[0] == "ResourceNotFoundException"


@pytest.mark.parametrize(
    ("operation", "asked"),
    [
        ("create_secret", {"Name": "bad name", "SecretString": "x"}),
        ("create_secret", {"Name": "s", "SecretString": "x", "SecretBinary": b"x"}),
        ("create_secret", {"Name": "s", "KmsKeyId": "alias/mine"}),
        ("create_secret", {"Name": "s", "AddReplicaRegions": [{"Region": "eu-west-1"}]}),
        ("put_secret_value", {"SecretId": "held"}),
        ("delete_secret", {"SecretId": "held", "RecoveryWindowInDays": 6}),
        ("delete_secret", {"SecretId": "held", "RecoveryWindowInDays": 7, "ForceDeleteWithoutRecovery": True}),
    ],
)
def test_what_cannot_be_is_an_invalid_parameter(secrets: Any, operation: str, asked: dict[str, Any]) -> None:
    secrets.create_secret(Name="held")
    assert refused(getattr(secrets, operation), **asked)[0] == "InvalidParameterException"


def test_secrets_are_listed_by_pages(secrets: Any) -> None:
    for name in ("c", "a", "b"):
        secrets.create_secret(Name=name, Tags=[{"Key": "team", "Value": name}])
    pages = secrets.get_paginator("list_secrets").paginate(PaginationConfig={"PageSize": 2})
    assert [each["Name"] for page in pages for each in page["SecretList"]] == ["a", "b", "c"]
    found = secrets.list_secrets(Filters=[{"Key": "tag-value", "Values": ["b"]}])["SecretList"]
    assert [each["Name"] for each in found] == ["b"]


def test_who_may_what_is_decided_on_the_secrets_arn(server: Server, key: Key, account: str) -> None:
    iam, secrets = client(server, key, "iam"), client(server, key)
    arn = f"arn:aws:secretsmanager:{REGION}:{account}:secret:mine"
    rules = policy(
        allow(["secretsmanager:CreateSecret", "secretsmanager:GetSecretValue"], Resource=f"{arn}-??????"),
        allow(
            "secretsmanager:DescribeSecret",
            Resource="*",
            Condition={"StringEquals": {"secretsmanager:ResourceTag/team": "a"}},
        ),
    )
    iam.create_user(UserName="ann")
    iam.put_user_policy(UserName="ann", PolicyName="p", PolicyDocument=json.dumps(rules))
    made = iam.create_access_key(UserName="ann")["AccessKey"]
    ann = client(server, (made["AccessKeyId"], made["SecretAccessKey"]))
    held = ann.create_secret(Name="mine", SecretString="one")["ARN"]
    assert ann.get_secret_value(SecretId="mine")["SecretString"] == "one"
    code, text = refused(ann.put_secret_value, SecretId="mine", SecretString="two")
    assert code == "AccessDeniedException"
    assert f"is not authorized to perform: secretsmanager:PutSecretValue on resource: {held}" in text
    secrets.create_secret(Name="other", SecretString="x", Tags=[{"Key": "team", "Value": "a"}])
    assert refused(ann.get_secret_value, SecretId="other")[0] == "AccessDeniedException"
    assert refused(ann.get_secret_value, SecretId="absent")[0] == "AccessDeniedException"
    assert refused(ann.list_secrets)[0] == "AccessDeniedException"
    assert refused(ann.create_secret, Name="mine", Tags=[{"Key": "a", "Value": "b"}])[0] == "AccessDeniedException"
    assert ann.describe_secret(SecretId="other")["Name"] == "other"
    assert refused(ann.describe_secret, SecretId="mine")[0] == "AccessDeniedException"


def test_an_account_has_no_part_in_another_ones_secrets(server: Server, secrets: Any) -> None:
    arn = secrets.create_secret(Name="s", SecretString="one")["ARN"]
    other = client(server, server.credentials())
    assert refused(other.get_secret_value, SecretId=arn)[0] == "AccessDeniedException"
    assert refused(other.delete_secret, SecretId=arn, ForceDeleteWithoutRecovery=True)[0] == "AccessDeniedException"


def test_an_operation_that_is_not_served_is_unknown(secrets: Any) -> None:
    assert refused(secrets.get_random_password)[0] == "UnknownOperationException"


def test_the_aws_command_makes_reads_and_deletes_a_secret(aws: Aws) -> None:
    aws.write("value.json", {"username": "me", "accessToken": "token"})
    made = aws(f"aws secretsmanager create-secret --name {NAME} --secret-string file://value.json")
    text = aws.text(f"aws secretsmanager get-secret-value --secret-id {NAME} --query SecretString --output text")
    assert json.loads(text.removesuffix("--output json"))["accessToken"] == "token"
    aws(f"aws secretsmanager tag-resource --secret-id {NAME} --tags Key=team,Value=a")
    assert aws("aws secretsmanager list-secrets")["SecretList"][0]["Tags"] == [{"Key": "team", "Value": "a"}]
    aws(f"aws secretsmanager untag-resource --secret-id {NAME} --tag-keys team")
    gone = aws(f"aws secretsmanager delete-secret --secret-id {made['ARN']} --recovery-window-in-days 7")
    assert gone["DeletionDate"]
    aws(f"aws secretsmanager restore-secret --secret-id {made['ARN']}")
    aws(f"aws secretsmanager delete-secret --secret-id {NAME} --force-delete-without-recovery")
    assert "ResourceNotFoundException" in aws.error(f"aws secretsmanager describe-secret --secret-id {NAME}")


def test_no_value_is_in_a_log_an_audit_event_a_row_or_an_error(server: Server, secrets: Any) -> None:
    arn = secrets.create_secret(Name=NAME, SecretString=f"{MARKER}-1")["ARN"]
    secrets.put_secret_value(SecretId=arn, SecretBinary=f"{MARKER}-2".encode())
    secrets.update_secret(SecretId=arn, SecretString=f"{MARKER}-3")
    secrets.get_secret_value(SecretId=arn)
    texts = [
        refused(secrets.put_secret_value, SecretId="absent", SecretString=MARKER)[1],
        refused(secrets.put_secret_value, SecretId=arn, SecretString=MARKER, VersionStages=["x"] * 21)[1],
        refused(secrets.create_secret, Name=NAME, SecretString=MARKER)[1],
    ]
    unchecked = _session.client(
        "secretsmanager",
        endpoint_url=server.url,
        region_name=REGION,
        aws_access_key_id=secrets._request_signer._credentials.access_key,
        aws_secret_access_key=secrets._request_signer._credentials.secret_key,
        config=Config(retries={"total_max_attempts": 1}, parameter_validation=False),
    )
    for wrong in ({"SecretString": {MARKER: 1}}, {"SecretString": MARKER + "x" * 65_536}, {"SecretString": [MARKER]}):
        texts.append(_raw(unchecked, "CreateSecret", {"Name": "s", **wrong}))
    assert not [text for text in texts if MARKER in text]
    held = [server.data.with_name(f"{server.data.name}.log"), *_files(server.data)]
    encoded = MARKER.encode()
    assert [path for path in held if encoded in path.read_bytes()] == []
    events = b"".join(path.read_bytes() for path in _files(server.data / "audit"))
    assert b'"eventName":"GetSecretValue"' in events
    assert b'"eventSource":"secretsmanager.amazonaws.com"' in events


def _raw(unchecked: Any, operation: str, asked: dict[str, Any]) -> str:
    """What is said of an input that boto3 would not send by itself."""
    with pytest.raises(ClientError) as caught:
        unchecked._make_api_call(operation, asked)
    return str(caught.value)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def run(server: Server, *command: str, said: str = "", ok: bool = True) -> str:
    """What `wharfage` printed; on standard error where it is not `ok`."""
    done = subprocess.run(
        [sys.executable, "-m", "proxy", *command, "--data", str(server.data)],
        input=said,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode == 0) is ok, done.stderr
    assert MARKER not in done.stdout + done.stderr
    return (done.stdout if ok else done.stderr).strip()


def test_the_command_line_keeps_lists_and_removes_a_secret_beside_the_running_server(
    server: Server, key: Key, account: str
) -> None:
    mine = ("--account", account)
    arn = run(server, "secret", "put", "quay", "--username", "me", "--password-stdin", *mine, said=f"{MARKER}-1\n")
    secrets, ecr = client(server, key), client(server, key, "ecr")
    found = secrets.get_secret_value(SecretId=arn)
    assert found["Name"] == "ecr-pullthroughcache/quay"
    assert json.loads(found["SecretString"]) == {"username": "me", "accessToken": f"{MARKER}-1"}
    again = run(server, "secret", "put", "quay", "--username", "me", "--password-stdin", *mine, said=f"{MARKER}-2")
    assert again == arn
    assert json.loads(secrets.get_secret_value(SecretId=arn)["SecretString"])["accessToken"] == f"{MARKER}-2"
    ecr.create_pull_through_cache_rule(
        ecrRepositoryPrefix="quay", upstreamRegistryUrl="quay.io", credentialArn=arn, upstreamRepositoryPrefix="team"
    )
    [entry] = json.loads(run(server, "secret", "list", *mine))
    assert (entry["arn"], entry["rules"]) == (arn, ["quay"])
    [rule] = json.loads(run(server, "pull-through", "list", *mine))
    assert (rule["prefix"], rule["upstream"], rule["kind"], rule["secret"]) == ("quay", "quay.io", "quay", arn)
    assert "logs in with it" in run(server, "secret", "remove", "quay", *mine, ok=False)
    ecr.delete_pull_through_cache_rule(ecrRepositoryPrefix="quay")
    assert run(server, "secret", "remove", "quay", *mine) == arn
    assert "there is no secret" in run(server, "secret", "remove", "quay", *mine, ok=False)
    assert json.loads(run(server, "pull-through", "list", *mine)) == []
