"""Signatures that fail slow their sender down, in the forms of ECR, STS and IAM; the owner of the key is let in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from proxy.auth.failed_logins import FailedLogins
from support.aws_handler import ADMIN_KEY, EVE_KEY, REGION, Answer, AwsHandler

FREE = 2
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
WHO = b"Action=GetCallerIdentity&Version=2011-06-15"
USERS = b"Action=ListUsers&Version=2010-05-08"
WRONG = (ADMIN_KEY[0], "wrong")
ATTACKER, OWNER = "127.0.0.2", "127.0.0.3"

Key = tuple[str, str]


class Moment:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def moment() -> Moment:
    return Moment()


@pytest.fixture
async def door(moment: Moment) -> AsyncIterator[AwsHandler]:
    started = AwsHandler(logins=FailedLogins(FREE, clock=moment))
    await started.begin()
    yield started
    await started.finish()


async def ecr(door: AwsHandler, client: str, key: Key) -> Answer:
    return await door.send(door.signed(key=key), client=client)


async def sts(door: AwsHandler, client: str, key: Key) -> Answer:
    return await door.send(door.signed(body=WHO, service="sts", headers=FORM, key=key), WHO, client=client)


async def iam(door: AwsHandler, client: str, key: Key) -> Answer:
    lines = door.signed(body=USERS, service="iam", headers=FORM, key=key, region="us-east-1")
    return await door.send(lines, USERS, client=client)


async def presigned(door: AwsHandler, client: str, key: Key) -> Answer:
    request = AWSRequest(method="POST", url=f"{door.url}/?{WHO.decode()}", headers={})
    SigV4QueryAuth(Credentials(*key), "sts", REGION, 60).add_auth(request)
    target = request.url.partition(door.address)[2]
    return await door.send([("Host", door.address)], b"", target=target, client=client)


async def layer_part(door: AwsHandler, client: str, key: Key) -> Answer:
    return await door.send(door.signed("UploadLayerPart", key=key), client=client)


@pytest.mark.parametrize("ask", [ecr, sts, iam, presigned, layer_part])
async def test_after_the_free_failures_a_client_is_429_with_retry_after(
    door: AwsHandler, moment: Moment, ask: object
) -> None:
    """Also with the right signature, until the wait is over; the key's owner elsewhere is let in all the while."""
    assert callable(ask)
    for _ in range(FREE + 1):
        assert (await ask(door, ATTACKER, WRONG)).status in (400, 403)
    for key in (WRONG, ADMIN_KEY):
        refused = await ask(door, ATTACKER, key)
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert b"ThrottlingException" in refused.body
    assert (await ask(door, OWNER, ADMIN_KEY)).status != 429
    assert b"Signature" not in (await ask(door, OWNER, ADMIN_KEY)).body
    moment.now += 1
    assert (await ask(door, ATTACKER, ADMIN_KEY)).status != 429


async def test_a_key_under_attack_from_many_addresses_is_its_owners_all_the_same(door: AwsHandler) -> None:
    """A new address has one try, and with the right signature it is in."""
    for number in range(10, 10 + FREE + 1):
        assert (await ecr(door, f"127.0.1.{number}", WRONG)).status == 400
    assert (await ecr(door, "127.0.1.10", WRONG)).status == 429
    assert (await ecr(door, OWNER, ADMIN_KEY)).status == 200
    assert (await ecr(door, "127.0.1.99", WRONG)).status == 400
    assert (await ecr(door, "127.0.1.99", WRONG)).status == 429


async def test_who_has_proven_a_key_goes_on_while_another_at_its_address_fails(door: AwsHandler) -> None:
    assert (await ecr(door, ATTACKER, ADMIN_KEY)).status == 200
    for _ in range(FREE + 1):
        assert (await ecr(door, ATTACKER, (EVE_KEY[0], "wrong"))).status == 400
    assert (await ecr(door, ATTACKER, EVE_KEY)).status == 429
    assert (await ecr(door, ATTACKER, ADMIN_KEY)).status == 200


async def test_made_up_keys_count_for_the_client(door: AwsHandler) -> None:
    for number in range(FREE + 1):
        assert (await ecr(door, ATTACKER, (f"AKIAMADEUP{number:06}", "x"))).status == 400
    assert (await ecr(door, ATTACKER, ("AKIAMADEUP999999", "x"))).status == 429
    assert (await ecr(door, OWNER, ADMIN_KEY)).status == 200


async def test_a_clock_that_is_off_and_a_wrong_region_are_no_failed_logins(door: AwsHandler) -> None:
    for _ in range(FREE + 3):
        assert (await door.send(door.signed(region="eu-west-9"), client=ATTACKER)).status == 400
    assert (await ecr(door, ATTACKER, ADMIN_KEY)).status == 200


async def test_of_a_client_that_has_to_wait_no_key_is_looked_up_and_no_body_read(
    door: AwsHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(FREE + 1):
        await ecr(door, ATTACKER, WRONG)

    async def looked_up(access_key_id: str) -> object:
        return pytest.fail("looked up")

    monkeypatch.setattr(door.metadata, "access_key", looked_up)
    assert (await ecr(door, ATTACKER, WRONG)).status == 429
