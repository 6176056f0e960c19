"""Accounts, whoami and the explainer from the command line, beside a running server and without one."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from support.connections import Connection
from support.programs import run
from support.server import Server, password_at, status_of

DEFAULT, OTHER = "123456789012", "210987654321"
APP = f"arn:aws:ecr:us-east-1:{DEFAULT}:repository/team/app"


def wharfage(*words: str | Path, ok: bool = True, extra: dict[str, str] | None = None) -> CompletedProcess[str]:
    return run(sys.executable, "-m", "proxy", *words, ok=ok, extra=extra)


def client(server: Server, service: str, key: tuple[str, str]) -> Any:
    return boto3.client(
        service,
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id=key[0],
        aws_secret_access_key=key[1],
        config=Config(retries={"total_max_attempts": 1}),
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = Server.start(tmp_path_factory.mktemp("accounts") / "data", workers=2)
    yield found
    assert found.stop() == 0


def created(data: Path, account: str) -> tuple[dict[str, Any], str]:
    done = wharfage("account", "create", "--data", data, account)
    return json.loads(done.stdout), done.stderr


def test_a_list_says_how_many_bytes_each_account_holds_and_may_hold(server: Server) -> None:
    """Also of an upload that is still open."""
    created(server.data, "333333333333")
    with closing(Connection(server, server.password())) as line:
        at = line.begin("team/bytes")
        line.ask("PATCH", at, b"x" * 1234, {"Content-Type": "application/octet-stream"}).expect(202)
    said = wharfage("account", "list", "--data", server.data, extra={"WHARFAGE_QUOTAS_ACCOUNT_BYTES": "5000"}).stdout
    listed = {each["account"]: (each["bytes"], each["bytes_quota"]) for each in json.loads(said)}
    assert (listed[DEFAULT], listed["333333333333"]) == ((1234, 5000), (0, 5000))


def test_an_account_is_opened_used_and_closed_while_the_server_runs(server: Server) -> None:
    """Its administrator may do everything in it at once; once it is closed, its key and its password are refused by
    the next request, at every door."""
    made, said = created(server.data, OTHER)
    assert list(made)[-2:] == ["access_key_id", "secret_access_key"]
    assert made["administrator"] == f"arn:aws:iam::{OTHER}:user/administrator"
    assert "[registry] suffix" in said
    assert f"{OTHER}.dkr.ecr.us-east-1.SUFFIX" in said
    key = made["access_key_id"], made["secret_access_key"]
    ecr, iam, sts = (client(server, service, key) for service in ("ecr", "iam", "sts"))
    assert ecr.create_repository(repositoryName="team/app")["repository"]["registryId"] == OTHER
    password = password_at(server.url, *key)
    assert status_of(server, password) == 200

    told = json.loads(wharfage("account", "close", "--data", server.data, OTHER).stdout)
    assert (told["account"], told["closed"] is not None) == (OTHER, True)
    assert status_of(server, password) == 401
    for call, code in (
        (ecr.describe_repositories, "UnrecognizedClientException"),
        (ecr.get_authorization_token, "UnrecognizedClientException"),
        (iam.list_users, "InvalidClientTokenId"),
        (sts.get_caller_identity, "InvalidClientTokenId"),
    ):
        with pytest.raises(ClientError) as caught:
            call()
        assert caught.value.response["Error"]["Code"] == code
    listed = {each["account"]: each for each in json.loads(wharfage("account", "list", "--data", server.data).stdout)}
    assert listed[OTHER]["closed"] == told["closed"]
    assert (listed[DEFAULT]["closed"], listed[DEFAULT]["default"]) == (None, True)
    again = wharfage("account", "create", "--data", server.data, OTHER, ok=False)
    assert (again.returncode, again.stdout) == (1, "")
    assert "was closed" in again.stderr
    owner = client(server, "ecr", server.credentials())
    with pytest.raises(ClientError) as caught:
        owner.describe_repositories(registryId=OTHER)
    assert caught.value.response["Error"]["Code"] in ("AccessDeniedException", "RepositoryNotFoundException")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("create", "1234"), 2, "12 digits"),
        (("create", "٠١٢٣٤٥٦٧٨٩٠١"), 2, "12 digits"),
        (("create", DEFAULT), 1, "exists already"),
        (("close", DEFAULT), 1, "default account"),
        (("close", "999999999999"), 1, "no account 999999999999"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_that_teaches(
    server: Server, words: tuple[str, str], status: int, said: str
) -> None:
    done = wharfage("account", words[0], "--data", server.data, words[1], ok=False)
    assert done.returncode == status
    assert said in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_the_default_account_is_the_one_that_the_server_serves_not_the_commands(server: Server) -> None:
    """Settings that were forgotten at the command line close nothing."""
    other = {"WHARFAGE_REGISTRY_ACCOUNT": "777777777777"}
    done = wharfage("account", "close", "--data", server.data, DEFAULT, ok=False, extra=other)
    assert "default account" in done.stderr
    assert json.loads(wharfage("whoami", "--data", server.data).stdout)["account"] == DEFAULT


def test_what_the_command_did_is_in_the_audit_trail_without_the_secret(server: Server) -> None:
    made, _ = created(server.data, "555555555555")
    written = (server.data / "audit" / "audit.jsonl").read_text()
    events = [json.loads(line) for line in written.splitlines()]
    [told] = [each for each in events if each["recipientAccountId"] == "555555555555"]
    assert (told["eventName"], told["userIdentity"]["invokedBy"]) == ("CreateAccount", "wharfage account")
    assert made["secret_access_key"] not in written


def test_an_account_is_opened_without_a_server(tmp_path: Path) -> None:
    """In a directory that has served before; the next server knows it. Its suffix says where docker reaches it."""
    data = tmp_path / "data"
    Server.start(data, workers=1).stop()
    done = wharfage("account", "create", "--data", data, OTHER, extra={"WHARFAGE_REGISTRY_SUFFIX": "registry.example"})
    assert f"{OTHER}.dkr.ecr.us-east-1.registry.example:5000" in done.stderr
    made = json.loads(done.stdout)
    server = Server.start(data, workers=1)
    try:
        found = client(server, "sts", (made["access_key_id"], made["secret_access_key"])).get_caller_identity()
        assert found["Account"] == OTHER
    finally:
        assert server.stop() == 0
    nowhere = wharfage("account", "list", "--data", tmp_path / "none", ok=False)
    assert (nowhere.returncode, "no such data directory" in nowhere.stderr) == (1, True)


def test_whoami_tells_whose_the_credentials_are(server: Server, tmp_path: Path) -> None:
    """Those of the data directory, of the environment before them, or of a profile that is asked for."""
    found = json.loads(wharfage("whoami", "--data", server.data).stdout)
    assert found["arn"] == f"arn:aws:iam::{DEFAULT}:user/administrator"
    assert (found["account"], found["user_id"][:4]) == (DEFAULT, "AIDA")
    iam = client(server, "iam", server.credentials())
    iam.create_user(UserName="anna")
    made = iam.create_access_key(UserName="anna")["AccessKey"]
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    anna = dict(zip(names, (made["AccessKeyId"], made["SecretAccessKey"]), strict=False))
    found = json.loads(wharfage("whoami", "--data", server.data, extra=anna).stdout)
    assert found["arn"] == f"arn:aws:iam::{DEFAULT}:user/anna"
    session = client(server, "sts", (made["AccessKeyId"], made["SecretAccessKey"])).get_session_token()["Credentials"]
    temporary = dict(
        zip(names, (session["AccessKeyId"], session["SecretAccessKey"], session["SessionToken"]), strict=True)
    )
    found = json.loads(wharfage("whoami", "--data", server.data, extra=temporary).stdout)
    assert found["arn"] == f"arn:aws:iam::{DEFAULT}:user/anna"
    files = {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials")}
    key = server.credentials()
    (tmp_path / "credentials").write_text(f"[ops]\naws_access_key_id = {key[0]}\naws_secret_access_key = {key[1]}\n")
    found = json.loads(wharfage("whoami", "--data", server.data, "--profile", "ops", extra=anna | files).stdout)
    assert found["arn"] == f"arn:aws:iam::{DEFAULT}:user/administrator"


@pytest.mark.parametrize("secret", ["a-wrong-secret-of-forty-characters-marker"])
def test_whoami_says_in_one_line_what_is_wrong(server: Server, tmp_path: Path, secret: str) -> None:
    wrong = {"AWS_ACCESS_KEY_ID": server.credentials()[0], "AWS_SECRET_ACCESS_KEY": secret}
    done = wharfage("whoami", "--data", server.data, ok=False, extra=wrong)
    assert done.returncode == 1
    assert "SignatureDoesNotMatch" in done.stderr
    assert secret not in done.stderr
    (tmp_path / "data").mkdir()
    stopped = wharfage("whoami", "--data", tmp_path / "data", ok=False)
    assert (stopped.returncode, "no server runs" in stopped.stderr) == (1, True)
    profile = wharfage("whoami", "--data", server.data, "--profile", "none", ok=False)
    assert (profile.returncode, profile.stderr.count("\n")) == (1, 1)


def explain(
    server: Server, principal: str, action: str, resource: str, *more: str, status: int
) -> CompletedProcess[str]:
    words = ["--principal", principal, "--action", action, "--resource", resource, *more]
    done = wharfage("policy", "explain", "--data", server.data, *words, ok=status == 0)
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture(scope="module")
def people(server: Server) -> str:
    """A node that may pull, from one network only; a role that it may take; a repository that denies all pushes."""
    iam, ecr = (client(server, service, server.credentials()) for service in ("iam", "ecr"))
    iam.create_user(UserName="node", Path="/machines/")
    node = f"arn:aws:iam::{DEFAULT}:user/machines/node"
    pull = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "PullFromHome",
                "Effect": "Allow",
                "Action": ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
                "Resource": "*",
                "Condition": {"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}},
            }
        ],
    }
    iam.put_user_policy(UserName="node", PolicyName="pull", PolicyDocument=json.dumps(pull))
    trust = {"Effect": "Allow", "Principal": {"AWS": node}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    iam.create_role(RoleName="pusher", AssumeRolePolicyDocument=document)
    iam.attach_role_policy(RoleName="pusher", PolicyArn="arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryPowerUser")
    ecr.create_repository(repositoryName="team/app")
    deny = {"Sid": "Frozen", "Effect": "Deny", "Principal": "*", "Action": "ecr:PutImage"}
    ecr.set_repository_policy(
        repositoryName="team/app",
        policyText=json.dumps({"Version": "2012-10-17", "Statement": [deny]}),
        force=True,
    )
    return node


def test_the_explainer_says_which_statement_decided_and_why_the_others_did_not(server: Server, people: str) -> None:
    """For a user, with a condition key and without; the status says yes or no."""
    denied = explain(server, people, "ecr:BatchGetImage", APP, status=1).stdout
    assert denied.startswith("DENIED  ecr:BatchGetImage")
    assert "because no identity-based policy allows the ecr:BatchGetImage action" in denied
    assert "statement 1 (PullFromHome), Allow: does not apply: its condition IpAddress on aws:SourceIp" in denied
    context = ("--context", "aws:SourceIp=192.0.2.7")
    allowed = explain(server, people, "ecr:BatchGetImage", APP, *context, status=0).stdout
    assert allowed.startswith("ALLOWED")
    assert f"because  statement 1 (PullFromHome) of policy pull, on {people} allows it" in allowed
    assert "statement 1 (PullFromHome), Allow: applies  <- decides" in allowed
    assert (
        "the repository's policy\n  statement 1 (Frozen), Deny: does not apply: its Action names ecr:PutImage"
        in allowed
    )


def test_the_explainer_speaks_json_to_programs(server: Server, people: str) -> None:
    """A role's session that the repository's policy denies."""
    session = f"arn:aws:sts::{DEFAULT}:assumed-role/pusher/build"
    told = json.loads(explain(server, session, "ecr:PutImage", APP, "--json", status=1).stdout)
    assert (told["allowed"], told["explicit_deny"], told["principal"]) == (False, True, session)
    assert told["decided_by"]["kind"] == "repository"
    assert told["decided_by"]["statement"]["sid"] == "Frozen"
    assert {(each["kind"], each["matched"]) for each in told["statements"]} >= {
        ("repository", True),
        ("identity", True),
    }


@pytest.mark.parametrize(
    ("principal", "action", "resource", "status"),
    [
        (f"arn:aws:iam::{DEFAULT}:root", "ecr:BatchGetImage", APP, 0),
        (f"arn:aws:iam::{DEFAULT}:role/pusher", "ecr:BatchGetImage", APP, 0),
        (f"arn:aws:iam::{DEFAULT}:user/machines/node", "sts:AssumeRole", f"arn:aws:iam::{DEFAULT}:role/pusher", 0),
        (f"arn:aws:iam::{DEFAULT}:root", "sts:AssumeRole", f"arn:aws:iam::{DEFAULT}:role/pusher", 1),
        (f"arn:aws:iam::{DEFAULT}:user/administrator", "iam:CreateUser", f"arn:aws:iam::{DEFAULT}:user/x", 0),
        (f"arn:aws:iam::{DEFAULT}:user/machines/node", "ecr:GetAuthorizationToken", "*", 1),
        (f"arn:aws:iam::{DEFAULT}:user/administrator", "ecr:BatchGetImage", APP.replace(DEFAULT, "999999999999"), 1),
    ],
)
def test_the_status_is_the_answer(
    server: Server, people: str, principal: str, action: str, resource: str, status: int
) -> None:
    explain(server, principal, action, resource, status=status)


@pytest.mark.parametrize(
    ("principal", "action", "more", "said"),
    [
        (f"arn:aws:iam::{DEFAULT}:user/node", "ecr:PutImage", (), "did you mean"),  # its path is lacking
        (f"arn:aws:iam::{DEFAULT}:user/nobody", "ecr:PutImage", (), "no principal"),
        (f"arn:aws:sts::{DEFAULT}:assumed-role/nobody/x", "ecr:PutImage", (), "no principal"),
        ("node", "ecr:PutImage", (), "is not the ARN of a principal"),
        (f"arn:aws:iam::{DEFAULT}:root", "PutImage", (), "no action"),
        (f"arn:aws:iam::{DEFAULT}:root", "ecr:*", (), "no action"),
        (f"arn:aws:iam::{DEFAULT}:root", "ecr:PutImage", ("--context", "novalue"), "KEY=VALUE"),
        (f"arn:aws:iam::{DEFAULT}:root", "sts:AssumeRole", (), "no resource"),
    ],
)
def test_what_cannot_be_asked_ends_with_status_2(
    server: Server, people: str, principal: str, action: str, more: tuple[str, ...], said: str
) -> None:
    resource = "team/app" if action == "sts:AssumeRole" else APP
    done = explain(server, principal, action, resource, *more, status=2)
    assert said in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


# ---- keys -----------------------------------------------------------------------------------------------------------


def test_the_report_lists_every_key_with_its_use_and_what_it_acts_by(server: Server) -> None:
    """As a table, and as JSON for programs; no secret is in either."""
    iam = client(server, "iam", server.credentials())
    iam.create_user(UserName="reported")
    made = iam.create_access_key(UserName="reported")["AccessKey"]
    iam.attach_user_policy(UserName="reported", PolicyArn="arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryPullOnly")
    iam.update_access_key(UserName="reported", AccessKeyId=made["AccessKeyId"], Status="Inactive")
    done = wharfage("credentials", "report", "--json", "--data", server.data)
    found = {each["access_key_id"]: each for each in json.loads(done.stdout)}
    told = found[made["AccessKeyId"]]
    assert (told["principal"], told["status"]) == (f"arn:aws:iam::{DEFAULT}:user/reported", "inactive")
    assert (told["age_days"], told["expires"], told["last_used"]) == (0, None, None)
    assert told["policies"] == ["arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryPullOnly"]
    assert found[server.credentials()[0]]["status"] == "active"
    table = wharfage("credentials", "report", "--data", server.data).stdout
    [line] = [each for each in table.splitlines() if made["AccessKeyId"] in each]
    assert line.split()[2:] == ["inactive", "0", "d", "-", "never", "AmazonEC2ContainerRegistryPullOnly"]
    assert made["SecretAccessKey"] not in done.stdout + table


def test_a_user_is_revoked_while_the_server_runs_and_the_trail_says_so(server: Server) -> None:
    iam = client(server, "iam", server.credentials())
    iam.create_user(UserName="leaver")
    iam.attach_user_policy(UserName="leaver", PolicyArn="arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryPullOnly")
    made = iam.create_access_key(UserName="leaver")["AccessKey"]
    key, arn = (made["AccessKeyId"], made["SecretAccessKey"]), f"arn:aws:iam::{DEFAULT}:user/leaver"
    password = password_at(server.url, *key)
    assert status_of(server, password) == 200
    done = wharfage("revoke", arn, "--data", server.data)
    assert json.loads(done.stdout)["access_keys_made_inactive"] == [key[0]]
    assert "revoke those too" in done.stderr
    assert status_of(server, password) == 401
    with pytest.raises(ClientError) as caught:
        client(server, "sts", key).get_caller_identity()
    assert caught.value.response["Error"]["Code"] == "InvalidClientTokenId"
    events = [json.loads(line) for line in (server.data / "audit" / "audit.jsonl").read_text().splitlines()]
    [told] = [each for each in events if each["requestParameters"] == {"principal": arn}]
    assert (told["eventName"], told["userIdentity"]["invokedBy"]) == ("RevokePrincipal", "wharfage revoke")
    nobody = wharfage("revoke", f"arn:aws:iam::{DEFAULT}:user/none", "--data", server.data, ok=False)
    assert (nobody.returncode, "There is no principal" in nobody.stderr) == (1, True)


def test_keys_are_listed_revoked_and_made_anew_without_a_server(tmp_path: Path) -> None:
    """The administrator that was revoked has a new key in its credentials file, and the old one is gone. A key of the
    age that [identity] key_days names is refused by the next server; the one that the settings give is not."""
    data = tmp_path / "data"
    Server.start(data, workers=1).stop()
    soon = {"WHARFAGE_IDENTITY_KEY_DAYS": "3"}
    done = wharfage("credentials", "report", "--json", "--data", data, extra=soon)
    [old] = json.loads(done.stdout)
    assert (old["status"], old["expires"] > old["created"]) == ("active", True)
    assert f"{old['access_key_id']} of {old['principal']} expires in 2 days" in done.stderr
    assert json.loads(wharfage("revoke", old["principal"], "--data", data).stdout)["access_keys_made_inactive"]
    assert json.loads(wharfage("credentials", "report", "--json", "--data", data).stdout)[0]["status"] == "inactive"
    made = json.loads(wharfage("credentials", "rotate", "--data", data).stdout)
    assert made["replaces"] == old["access_key_id"]
    [new] = json.loads(wharfage("credentials", "report", "--json", "--data", data).stdout)
    assert (new["access_key_id"], new["status"]) == (made["access_key_id"], "active")
    with contextlib.closing(sqlite3.connect(data / "metadata.db")) as rows, rows:
        rows.execute("UPDATE access_keys SET created_at = created_at - 4 * 86400")
    server = Server.start(data, workers=1, extra=soon)
    try:
        with pytest.raises(ClientError) as caught:
            client(server, "sts", server.credentials()).get_caller_identity()
        assert caught.value.response["Error"]["Code"] == "InvalidClientTokenId"
        expired = wharfage("token", "--data", data, ok=False, extra=soon)
        assert (expired.returncode, "credentials rotate" in expired.stderr) == (1, True)
        wharfage("credentials", "rotate", "--data", data, extra=soon)
        assert client(server, "sts", server.credentials()).get_caller_identity()["Account"] == DEFAULT
    finally:
        assert server.stop() == 0
