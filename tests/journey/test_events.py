"""Events reach webhooks, files and queues as boto3, the aws command and crane bring them about."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from support.images import write_layout
from support.programs import run
from support.server import Server
from support.webhooks import Webhook

ACCOUNT = "123456789012"
INDEX = "application/vnd.oci.image.index.v1+json"
SETTINGS = {"WHARFAGE_EVENTS_ALLOWED_NETWORKS": "127.0.0.0/8", "WHARFAGE_EVENTS_TIMEOUT_SECONDS": "5"}
PUSHES = json.dumps({"source": ["aws.ecr"], "detail": {"action-type": ["PUSH"], "image-tag": [{"exists": True}]}})


def client(server: Server, service: str, key: tuple[str, str] | None = None) -> Any:
    key_id, secret = key or server.credentials()
    return boto3.client(
        service,
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}),
    )


def wharfage(*words: str | Path) -> str:
    return run(sys.executable, "-m", "proxy", *words).stdout.strip()


def put_rule(server: Server, name: str, pattern: str, *arns: str, **more: Any) -> Any:
    events = client(server, "events")
    events.put_rule(Name=name, EventPattern=pattern)
    targets = [{"Id": f"t{number}", "Arn": arn, **more} for number, arn in enumerate(arns)]
    events.put_targets(Rule=name, Targets=targets)
    return events


def push(server: Server, repository: str, tag: str, number: int = 0) -> str:
    """An index without images, which needs no layers."""
    content = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "annotations": {"n": str(number)}})
    made = client(server, "ecr").put_image(
        repositoryName=repository, imageManifest=content, imageManifestMediaType=INDEX, imageTag=tag
    )
    digest: str = made["image"]["imageId"]["imageDigest"]
    return digest


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("events")
    more = {**SETTINGS, "WHARFAGE_EVENTS_FOLDER": str(folder / "files")}
    found = Server.start(folder / "data", workers=2, extra=more)
    for name in ("team/app", "team/other", "slow/app"):
        client(found, "ecr").create_repository(repositoryName=name)
    yield found
    assert found.stop() == 0


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with Webhook() as found:
        yield found


@pytest.fixture(autouse=True)
def no_rules(server: Server) -> Iterator[None]:
    yield
    events = client(server, "events")
    for rule in events.list_rules()["Rules"]:
        ids = [target["Id"] for target in events.list_targets_by_rule(Rule=rule["Name"])["Targets"]]
        if ids:
            events.remove_targets(Rule=rule["Name"], Ids=ids)
        events.delete_rule(Name=rule["Name"])


def test_a_push_and_a_deletion_reach_a_webhook_signed_in_order(server: Server, webhook: Webhook) -> None:
    secret = wharfage("events", "secret", "--data", server.data)
    assert len(secret) >= 32
    put_rule(server, "images", '{"source": ["aws.ecr"]}', f"{webhook.url}/hook")
    digest = push(server, "team/app", "v1", 1)
    client(server, "ecr").batch_delete_image(repositoryName="team/app", imageIds=[{"imageDigest": digest}])
    first, second = webhook.wait_for(2)
    assert first.event == {
        "version": "0",
        "id": first.event["id"],
        "detail-type": "ECR Image Action",
        "source": "aws.ecr",
        "account": ACCOUNT,
        "time": first.event["time"],
        "region": "us-east-1",
        "resources": [],
        "detail": {
            "result": "SUCCESS",
            "repository-name": "team/app",
            "image-digest": digest,
            "action-type": "PUSH",
            "image-tag": "v1",
        },
    }
    assert second.event["detail"] == {**first.event["detail"], "action-type": "DELETE"}
    assert first.headers["Content-Type"] == "application/json"
    assert first.signed_by(secret)
    assert second.signed_by(secret)
    assert not first.signed_by(secret + "x")


def test_crane_pushes_an_image_that_a_rule_of_the_aws_command_tells_of(
    server: Server, webhook: Webhook, tmp_path: Path
) -> None:
    """The target is an API destination's ARN, as Terraform wants it."""
    key_id, secret = server.credentials()
    environ = {"AWS_ACCESS_KEY_ID": key_id, "AWS_SECRET_ACCESS_KEY": secret, "AWS_DEFAULT_REGION": "us-east-1"}
    aws = (".tools/bin/aws", "--endpoint-url", server.url, "events")
    arn = f"arn:aws:events:us-east-1:{ACCOUNT}:api-destination/{webhook.url}/ci"
    run(*aws, "put-rule", "--name", "ci", "--event-pattern", PUSHES, extra=environ)
    run(*aws, "put-targets", "--rule", "ci", "--targets", f"Id=ci,Arn={arn}", extra=environ)
    layout = write_layout(tmp_path / "layout", 7, [1000])
    config = {"DOCKER_CONFIG": str(tmp_path)}
    crane = (".tools/bin/crane", "--insecure")
    run(*crane[:1], "auth", "login", "-u", "AWS", "-p", server.password(), server.address, extra=config)
    run(*crane, "push", tmp_path / "layout", f"{server.address}/team/app:crane", extra=config)
    [received] = webhook.wait_for(1)
    assert received.path == "/ci"
    assert received.event["detail"]["image-digest"] == layout.digest
    assert received.tag == "crane"


def test_a_receiver_that_fails_and_recovers_gets_every_event_in_order_and_others_do_not_wait(
    server: Server, webhook: Webhook
) -> None:
    webhook.statuses["/bad"] = 503
    put_rule(server, "both", PUSHES, f"{webhook.url}/bad", f"{webhook.url}/good")
    tags = [f"o{number}" for number in range(6)]
    for number, tag in enumerate(tags):
        push(server, "team/other", tag, number)
    assert [each.tag for each in webhook.wait_for(6, path="/good")] == tags
    failed = webhook.wait_for(2, path="/bad", accepted=False)
    assert {each.tag for each in failed} == {tags[0]}
    assert len({each.body for each in failed}) == 1
    webhook.statuses["/bad"] = 204
    assert [each.tag for each in webhook.wait_for(6, path="/bad")] == tags
    assert webhook.accepted("/bad")[0].body == failed[0].body


def test_a_slow_target_of_many_repositories_delays_no_other(server: Server, webhook: Webhook) -> None:
    webhook.slow["/slow"] = 30.0
    put_rule(server, "slow", PUSHES, f"{webhook.url}/slow")
    put_rule(server, "quick", PUSHES, f"{webhook.url}/quick")
    for number, repository in enumerate(("team/app", "team/other", "slow/app") * 2):
        push(server, repository, f"s{number}", 100 + number)
    assert len(webhook.wait_for(6, path="/quick", seconds=20.0)) == 6


def test_workers_that_are_killed_lose_no_event(server: Server, webhook: Webhook) -> None:
    webhook.status = 503
    put_rule(server, "killed", PUSHES, f"{webhook.url}/hook")
    tags = [f"k{number}" for number in range(4)]
    for number, tag in enumerate(tags[:2]):
        push(server, "slow/app", tag, 200 + number)
    webhook.wait_for(1, accepted=False)
    for worker in server.workers():
        os.kill(worker.pid, signal.SIGKILL)
    server.daemon.wait_until(server.is_ready, 60)
    webhook.status = 204
    for number, tag in enumerate(tags[2:], 2):
        push(server, "slow/app", tag, 200 + number)
    # The lease of a killed worker's job lasts a minute.
    assert list(dict.fromkeys(each.tag for each in webhook.wait_for(4, seconds=150.0))) == tags


def test_what_is_given_up_is_a_dead_job_that_can_be_tried_again(server: Server, webhook: Webhook) -> None:
    webhook.status = 400
    never = {"RetryPolicy": {"MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 60}}
    put_rule(server, "dead", PUSHES, f"{webhook.url}/hook", **never)
    push(server, "team/app", "d1", 301)
    webhook.wait_for(1, accepted=False)
    push(server, "team/app", "d2", 302)
    webhook.wait_for(2, accepted=False)

    def dead() -> list[dict[str, Any]]:
        listed = wharfage("jobs", "list", "--dead", "--kind", "event", "--data", server.data)
        return [json.loads(line) for line in listed.splitlines()]

    server.daemon.wait_until(lambda: len(dead()) == 2, 30)
    assert [job["error"] for job in dead()] == ["HTTP 400"] * 2
    webhook.status = 200
    assert wharfage("jobs", "retry", "--dead", "--kind", "event", "--data", server.data) == "2"
    assert {each.tag for each in webhook.wait_for(2)} == {"d1", "d2"}
    assert dead() == []


def test_a_rotated_secret_signs_beside_the_one_before(server: Server, webhook: Webhook) -> None:
    old = wharfage("events", "secret", "--data", server.data)
    new = wharfage("events", "secret", "--rotate", "--data", server.data)
    assert old != new == wharfage("events", "secret", "--data", server.data)
    put_rule(server, "rotated", PUSHES, f"{webhook.url}/hook")
    push(server, "team/app", "r1", 401)
    [received] = webhook.wait_for(1)
    assert received.signed_by(old)
    assert received.signed_by(new)
    wharfage("events", "secret", "--rotate", "--keep-hours", "0", "--data", server.data)
    push(server, "team/app", "r2", 402)
    received = webhook.wait_for(2)[1]
    assert not received.signed_by(new)
    assert received.signed_by(wharfage("events", "secret", "--data", server.data))


def test_a_target_may_ask_for_cloudevents(server: Server, webhook: Webhook) -> None:
    asked = {"HttpParameters": {"HeaderParameters": {"Content-Type": "application/cloudevents+json"}}}
    put_rule(server, "cloud", PUSHES, f"{webhook.url}/hook", **asked)
    push(server, "team/app", "c1", 501)
    [received] = webhook.wait_for(1)
    assert received.headers["Content-Type"] == "application/cloudevents+json"
    wrapped = received.event
    assert (wrapped["specversion"], wrapped["type"]) == ("1.0", "com.amazonaws.ecr.image-action")
    assert wrapped["subject"] == "team/app"
    assert wrapped["id"] == wrapped["data"]["id"]
    assert wrapped["data"]["detail"]["image-tag"] == "c1"


def test_a_file_below_the_folder_has_a_line_an_event(server: Server) -> None:
    put_rule(server, "file", PUSHES, "file:images.jsonl")
    for number in range(3):
        push(server, "team/app", f"f{number}", 600 + number)
    path = server.data.parent / "files" / ACCOUNT / "images.jsonl"
    server.daemon.wait_until(lambda: path.exists() and len(path.read_bytes().splitlines()) == 3, 30)
    assert [json.loads(line)["detail"]["image-tag"] for line in path.read_bytes().splitlines()] == ["f0", "f1", "f2"]


@pytest.mark.parametrize(
    "arn",
    [
        "https://10.0.0.1/hook",
        "https://169.254.169.254/latest",
        "https://[::1]/",
        "https://2130706434/",
        "http://93.184.215.14/",
        "https://user:secret@hooks.example/",
        "ftp://127.0.0.1/",
        "file:../../etc/passwd",
        "file:.hidden",
        "file:/etc/passwd",
        "arn:aws:sqs:us-east-1:123456789012:ci",
        "arn:aws:events:us-east-1:210987654321:api-destination/https://hooks.example/",
        "arn:aws:events:eu-west-1:123456789012:api-destination/https://hooks.example/",
        "arn:aws:lambda:us-east-1:123456789012:function:x",
    ],
)
def test_put_targets_refuses_what_no_event_may_go_to(server: Server, arn: str) -> None:
    events = client(server, "events")
    events.put_rule(Name="refused", EventPattern=PUSHES)
    with pytest.raises(ClientError) as refused:
        events.put_targets(Rule="refused", Targets=[{"Id": "t", "Arn": arn}])
    assert refused.value.response["Error"]["Code"] == "ValidationException"
    assert events.list_targets_by_rule(Rule="refused")["Targets"] == []


def test_rules_live_as_terraform_declares_them(server: Server) -> None:
    events = client(server, "events")
    arn = events.put_rule(
        Name="life", EventPattern=PUSHES, Description="CI", State="DISABLED", Tags=[{"Key": "team", "Value": "a"}]
    )["RuleArn"]
    assert arn == f"arn:aws:events:us-east-1:{ACCOUNT}:rule/life"
    described = events.describe_rule(Name="life", EventBusName="default")
    assert (described["State"], described["EventPattern"], described["Description"]) == ("DISABLED", PUSHES, "CI")
    events.enable_rule(Name="life")
    events.tag_resource(ResourceARN=arn, Tags=[{"Key": "env", "Value": "b"}])
    events.untag_resource(ResourceARN=arn, TagKeys=["team"])
    assert events.list_tags_for_resource(ResourceARN=arn)["Tags"] == [{"Key": "env", "Value": "b"}]
    assert [rule["State"] for rule in events.list_rules(NamePrefix="li")["Rules"]] == ["ENABLED"]
    assert events.list_rules(NamePrefix="x")["Rules"] == []
    events.put_targets(Rule="life", Targets=[{"Id": "a", "Arn": "https://hooks.example/x"}])
    assert events.list_targets_by_rule(Rule="life")["Targets"] == [{"Id": "a", "Arn": "https://hooks.example/x"}]
    with pytest.raises(ClientError, match="Rule can't be deleted since it has targets"):
        events.delete_rule(Name="life")
    assert events.remove_targets(Rule="life", Ids=["a", "b"])["FailedEntryCount"] == 1
    events.disable_rule(Name="life")
    events.delete_rule(Name="life")
    with pytest.raises(events.exceptions.ResourceNotFoundException, match="Rule life does not exist on EventBus"):
        events.describe_rule(Name="life")
    with pytest.raises(events.exceptions.InvalidEventPatternException):
        events.put_rule(Name="life", EventPattern='{"source": "x"}')
    with pytest.raises(events.exceptions.ResourceNotFoundException):
        events.put_rule(Name="life", EventPattern=PUSHES, EventBusName="other")
    with pytest.raises(ClientError) as unknown:
        events.list_event_buses()
    assert unknown.value.response["Error"]["Code"] == "UnknownOperationException"


def test_a_pattern_is_tried_without_a_rule(server: Server) -> None:
    events = client(server, "events")
    event = json.dumps({"source": "aws.ecr", "detail": {"action-type": "PUSH", "image-tag": "v1"}})
    assert events.test_event_pattern(EventPattern=PUSHES, Event=event)["Result"] is True
    assert events.test_event_pattern(EventPattern='{"source": ["x"]}', Event=event)["Result"] is False


def test_policies_say_who_may_make_which_rules(server: Server) -> None:
    iam = client(server, "iam")
    iam.create_user(UserName="ruler")
    key = iam.create_access_key(UserName="ruler")["AccessKey"]
    ruler = client(server, "events", (key["AccessKeyId"], key["SecretAccessKey"]))
    with pytest.raises(ClientError, match="not authorized to perform: events:PutRule on resource"):
        ruler.put_rule(Name="mine-1", EventPattern=PUSHES)
    statement: dict[str, Any] = {
        "Effect": "Allow",
        "Action": ["events:PutRule", "events:PutTargets", "events:RemoveTargets", "events:DeleteRule"],
        "Resource": f"arn:aws:events:us-east-1:{ACCOUNT}:rule/mine-*",
    }
    only = {**statement, "Action": "events:PutTargets", "Effect": "Deny"}
    only["Condition"] = {"ForAnyValue:StringNotLike": {"events:TargetArn": "https://hooks.example/*"}}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement, only]})
    iam.put_user_policy(UserName="ruler", PolicyName="rules", PolicyDocument=document)
    ruler.put_rule(Name="mine-1", EventPattern=PUSHES)
    ruler.put_targets(Rule="mine-1", Targets=[{"Id": "t", "Arn": "https://hooks.example/x"}])
    with pytest.raises(ClientError, match="AccessDenied"):
        ruler.put_targets(Rule="mine-1", Targets=[{"Id": "t", "Arn": "https://other.example/x"}])
    with pytest.raises(ClientError, match="AccessDenied"):
        ruler.put_rule(Name="theirs", EventPattern=PUSHES)
    with pytest.raises(ClientError, match="AccessDenied"):
        ruler.list_rules()
    with pytest.raises(ClientError, match="AccessDenied"):
        ruler.put_rule(Name="mine-2", EventPattern=PUSHES, Tags=[{"Key": "a", "Value": "b"}])
