"""What a pull-through cache rule logs in with, and that nothing of a value gets out but to who asks for it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from proxy.auth.envelope import SmallSealer
from proxy.auth.pull_through import UpstreamCredentials
from proxy.auth.secrets import VALUE_PURPOSE, SecretValue, open_value, seal_value
from proxy.model.errors import Code, Failure
from proxy.model.pull_through import PullThroughRule, UpstreamCredential
from proxy.model.secrets import SecretHead, SecretVersion, secret_arn

ACCOUNT, REGION, VERSION = "123456789012", "us-east-1", "v" * 36
ARN = secret_arn(REGION, ACCOUNT, "ecr-pullthroughcache/hub", "AbCdEf")
SEALER = SmallSealer([("key", bytes(32))], VALUE_PURPOSE)
VALUE = {"username": "me", "accessToken": "t0ken-of-mine"}


@dataclass
class Rows:
    versions: dict[str, SecretVersion] = field(default_factory=dict)
    heads: dict[str, SecretHead] = field(default_factory=dict)

    async def secret(self, account: str, secret_id: str) -> SecretHead | None:
        return self.heads.get(secret_id)

    async def secret_version(self, account: str, arn: str) -> SecretVersion | None:
        return self.versions.get(arn)

    def put(self, value: SecretValue, arn: str = ARN) -> UpstreamCredentials:
        self.heads[arn] = SecretHead(arn, "ecr-pullthroughcache/hub")
        self.versions[arn] = SecretVersion(arn, VERSION, seal_value(SEALER, ARN, VERSION, value), ("AWSCURRENT",), 1.0)
        return UpstreamCredentials(self, SEALER, region=REGION)


def rule(credential: str = ARN) -> PullThroughRule:
    url = "registry-1.docker.io"
    return PullThroughRule(ACCOUNT, "docker-hub", "docker-hub", url, "ROOT", credential, "", 1.0, 1.0)


async def refused(credentials: UpstreamCredentials, arn: str = ARN) -> Code:
    with pytest.raises(Failure) as caught:
        await credentials.of(rule(arn))
    assert VALUE["accessToken"] not in f"{caught.value} {caught.value.__cause__} {caught.value.hint}"
    return caught.value.code


async def test_a_rule_logs_in_with_the_two_members_of_its_secret() -> None:
    credentials = Rows().put(SecretValue(text=json.dumps(VALUE)))
    assert await credentials.of(rule()) == UpstreamCredential("me", VALUE["accessToken"], f"{ARN} {VERSION}")
    assert await credentials.of(rule("")) is None


@pytest.mark.parametrize(
    "value",
    [
        SecretValue(text="t0ken-of-mine"),
        SecretValue(binary=json.dumps(VALUE).encode()),
        SecretValue(text=json.dumps(["t0ken-of-mine"])),
        SecretValue(text=json.dumps({"username": "me"})),
        SecretValue(text=json.dumps({"username": "", "accessToken": "t0ken-of-mine"})),
        SecretValue(text=json.dumps({"username": 1, "accessToken": "t0ken-of-mine"})),
        SecretValue(text="[" * 100_000),
    ],
    ids=repr,
)
async def test_a_value_of_another_form_is_refused_without_saying_what_it_is(value: SecretValue) -> None:
    assert await refused(Rows().put(value)) is Code.UNABLE_TO_DECRYPT_SECRET


async def test_a_value_moved_to_another_secret_does_not_open() -> None:
    other = secret_arn(REGION, ACCOUNT, "ecr-pullthroughcache/other", "AbCdEf")
    assert await refused(Rows().put(SecretValue(text=json.dumps(VALUE)), other), other) is Code.UNABLE_TO_DECRYPT_SECRET


@pytest.mark.parametrize(
    "arn",
    [
        ARN.replace(REGION, "eu-west-1"),
        ARN.replace(ACCOUNT, "210987654321"),
        ARN.replace("ecr-pullthroughcache/", "mine/"),
        "no ARN",
    ],
)
async def test_a_secret_of_elsewhere_or_of_another_name_is_not_found(arn: str) -> None:
    assert await refused(Rows().put(SecretValue(text=json.dumps(VALUE)), arn), arn) is Code.SECRET_NOT_FOUND


async def test_a_secret_without_a_current_value_cannot_be_accessed() -> None:
    rows = Rows()
    credentials = rows.put(SecretValue(text=json.dumps(VALUE)))
    rows.versions.clear()
    assert await refused(credentials) is Code.UNABLE_TO_ACCESS_SECRET


@pytest.mark.parametrize(
    "value", [SecretValue(text="ä"), SecretValue(binary=b"\0\xff"), SecretValue(text="")], ids=repr
)
def test_a_value_is_opened_as_it_was_sealed(value: SecretValue) -> None:
    assert open_value(SEALER, ARN, VERSION, seal_value(SEALER, ARN, VERSION, value)) == value
    assert repr(value) == "SecretValue(...)"
