"""Events go where targets say, and nowhere that they may not: files below their folder, queues that are listed."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import boto3
import pytest

from proxy.http.selfsigned import make_self_signed
from proxy.jobs.event_targets import EventTargets, NotDelivered, tls_context
from proxy.model.events import Destination, TargetKind, parse_destination
from proxy.upstream.guarded_connector import parse_networks
from support.moto import ACCESS_KEY, REGION, SECRET_KEY, Moto
from support.webhooks import Webhook

ACCOUNT = "123456789012"


def target(arn: str) -> Destination:
    return parse_destination(arn, ACCOUNT, REGION)


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[Webhook, Path]]:
    """A receiver over TLS on the loopback, and who vouches for it."""
    authority, certificate, key = make_self_signed(tmp_path / "tls", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with Webhook(tls=context) as receiver:
        yield receiver, authority


async def test_a_webhook_over_https_is_verified_by_the_ca_bundle_and_its_address_by_the_networks(
    secure: tuple[Webhook, Path],
) -> None:
    """Loopback, like docker's networks, only if it is listed; a certificate that nobody vouches for is refused."""
    receiver, authority = secure
    loopback = parse_networks(["127.0.0.0/8"])
    hook = target(f"{receiver.url}/hook")
    cases = (
        (loopback, str(authority), True),
        (loopback, "", False),
        (parse_networks(["172.17.0.0/16"]), str(authority), False),
        ((), str(authority), False),
    )
    for allowed, bundle, taken in cases:
        tls = await asyncio.to_thread(tls_context, bundle, RuntimeError)
        targets = EventTargets(allowed=allowed, tls=tls)
        before = len(receiver.received)
        try:
            if taken:
                await targets.send(hook, ACCOUNT, b'{"n": 1}', {"Content-Type": "application/json"})
            else:
                with pytest.raises(NotDelivered):
                    await targets.send(hook, ACCOUNT, b'{"n": 1}', {"Content-Type": "application/json"})
        finally:
            await targets.close()
        assert len(receiver.received) - before == taken
    assert receiver.received[0].body == b'{"n": 1}'


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[EventTargets]:
    targets = EventTargets(allowed=(), folder=tmp_path / "files")
    yield targets
    await targets.close()


async def test_a_file_has_a_line_an_event_in_the_accounts_own_folder(files: EventTargets, tmp_path: Path) -> None:
    for number in range(2):
        await files.send(target("file:ci.jsonl"), ACCOUNT, json.dumps({"n": number}).encode(), {})
    assert (tmp_path / "files" / ACCOUNT / "ci.jsonl").read_text() == '{"n": 0}\n{"n": 1}\n'


async def test_a_link_in_the_place_of_a_file_is_not_followed(files: EventTargets, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("")
    (tmp_path / "files" / ACCOUNT).mkdir(parents=True)
    (tmp_path / "files" / ACCOUNT / "link").symlink_to(outside)
    with pytest.raises(NotDelivered):
        await files.send(target("file:link"), ACCOUNT, b"{}", {})
    assert outside.read_text() == ""


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "../x", "", "a\nb", "x" * 129])
def test_a_files_name_is_a_plain_one(name: str) -> None:
    with pytest.raises(ValueError, match="is neither"):
        target(f"file:{name}")


def test_a_target_is_refused_where_the_operator_allowed_none() -> None:
    nothing = EventTargets(allowed=())
    for arn in ("file:x", f"arn:aws:sqs:{REGION}:{ACCOUNT}:ci", "http://hooks.example/", "https://10.0.0.1/"):
        assert nothing.refusal(target(arn)) is not None
    assert nothing.refusal(target("https://hooks.example/x")) is None
    inside = EventTargets(allowed=parse_networks(["10.0.0.0/8"]))
    assert inside.refusal(target("http://10.0.0.1/x")) is None
    assert inside.refusal(target("http://hooks.example/x")) is None
    assert inside.refusal(target("https://192.168.0.1/x")) is not None


@pytest.mark.parametrize("url", ["https://a b/", "https://", "https://h/#x", "https://u:p@h/", "https://h/\u00e9"])
def test_what_is_no_plain_address_is_refused(url: str) -> None:
    assert EventTargets(allowed=()).refusal(Destination(TargetKind.WEBHOOK, url)) is not None


async def test_a_listed_queue_gets_the_event_and_a_fifo_queue_keeps_a_repositorys_order(tmp_path: Path) -> None:
    moto = Moto.start(tmp_path / "moto.log")
    key = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY, "endpoint_url": moto.url}
    targets = EventTargets(allowed=(), queues=(f"arn:aws:sqs:{REGION}:{ACCOUNT}:ci*",), sqs=key, timeout=30.0)
    try:
        sqs = boto3.client("sqs", region_name=REGION, **key)
        sqs.create_queue(QueueName="ci")
        sqs.create_queue(QueueName="ci.fifo", Attributes={"FifoQueue": "true"})
        about = {"group": "team/app", "id": "1"}
        for name in ("ci", "ci.fifo"):
            await targets.send(target(f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"), ACCOUNT, b'{"n": 1}', about)
            url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
            [message] = sqs.receive_message(QueueUrl=url, AttributeNames=["All"])["Messages"]
            assert message["Body"] == '{"n": 1}'
        assert message["Attributes"]["MessageGroupId"] == "team/app"
        with pytest.raises(NotDelivered, match="NonExistentQueue"):
            await targets.send(target(f"arn:aws:sqs:{REGION}:{ACCOUNT}:ci-none"), ACCOUNT, b"{}", about)
        with pytest.raises(NotDelivered, match="sqs_queues"):
            await targets.send(target(f"arn:aws:sqs:{REGION}:{ACCOUNT}:other"), ACCOUNT, b"{}", about)
    finally:
        await targets.close()
        moto.stop()
