"""Which KMS keys a caller may name for repositories and templates, through the real doors."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from proxy.blob.kms_keys import KmsKeys
from proxy.ecr.key_rights import ACTIONS
from support.fake_kms import fake_kms
from support.keyed_registry import OWN, Clock, KeyedRegistry, encryption_in, said
from support.memory_connection import Answer
from support.sigv4_signer import Credentials
from support.whole_registry import ACCOUNT, whole_registry

SECOND = "210987654321"
FOREIGN = f"arn:aws:kms:us-east-1:{SECOND}:key/own"
OTHER = "arn:aws:kms:us-east-1:123456789012:key/other"
CREATES = {"Effect": "Allow", "Action": "ecr:*", "Resource": "*"}
TEMPLATE: dict[str, Any] = {
    "prefix": "made",
    "appliedFor": ["CREATE_ON_PUSH"],
    "customRoleArn": f"arn:aws:iam::{ACCOUNT}:role/maker",
}

Open = Callable[..., AbstractAsyncContextManager[KeyedRegistry]]


def uses(*keys: str, effect: str = "Allow", actions: str | tuple[str, ...] = ACTIONS) -> dict[str, Any]:
    return {"Effect": effect, "Action": actions, "Resource": list(keys)}


@pytest.fixture
def world(tmp_path: Path) -> Open:
    """A registry asked by a user with these statements, or by another account's administrator."""

    @contextlib.asynccontextmanager
    async def opened(*statements: Any, allowed: tuple[str, ...] = (), second: bool = False) -> AsyncIterator[Any]:
        async with fake_kms() as door:
            door.named |= {OWN: OWN, "own": OWN, "alias/own": OWN, FOREIGN: FOREIGN, OTHER: OTHER}
            kms = KmsKeys(door.kms(retry_seconds=0.5), "probe")
            async with whole_registry(tmp_path, kms=kms, allowed_keys=allowed) as whole:
                if second:
                    key = await whole.open_account(SECOND)
                else:
                    await whole.metadata.iam(ACCOUNT, "CreateUser", {"UserName": "maker"})
                    document = json.dumps({"Version": "2012-10-17", "Statement": [CREATES, *statements]})
                    policy = {"UserName": "maker", "PolicyName": "given", "PolicyDocument": document}
                    await whole.metadata.iam(ACCOUNT, "PutUserPolicy", policy)
                    key = await whole.give_key(ACCOUNT, "maker")
                made = KeyedRegistry(whole, door, Clock(), Credentials(*key))
                try:
                    yield made
                finally:
                    await made.close()
                    await kms.close()

    return opened


def is_denied(answer: Answer) -> bool:
    return (answer.status, said(answer)["__type"]) == (403, "AccessDeniedException")


async def test_a_key_is_not_to_be_named_by_who_may_only_create_repositories(world: Open) -> None:
    """KMS, which is asked with the server's rights, is not even asked."""
    async with world() as registry:
        answer = await registry.create(key=OWN)
        assert is_denied(answer)
        assert said(answer)["message"].endswith(
            f":user/maker is not authorized to perform: kms:CreateGrant on resource: {OWN} because no identity-based "
            "policy allows the kms:CreateGrant action"
        )
        assert registry.kms.asked == []
        assert said(await registry.ask("DescribeRepositories"))["repositories"] == []


async def test_the_servers_own_key_needs_no_right(world: Open) -> None:
    """As AWS's managed key does not: it is what the operator gave to all."""
    async with world() as registry:
        assert encryption_in(await registry.create())["encryptionType"] == "KMS"


@pytest.mark.parametrize("name", [OWN, "own", "alias/own"])
async def test_a_key_that_the_callers_policies_allow_may_be_named(world: Open, name: str) -> None:
    async with world(uses(OWN)) as registry:
        assert encryption_in(await registry.create(key=name)) == {"encryptionType": "KMS", "kmsKey": OWN}


@pytest.mark.parametrize("lacking", ACTIONS)
async def test_each_of_the_actions_is_needed(world: Open, lacking: str) -> None:
    rest = tuple(action for action in ACTIONS if action != lacking)
    async with world(uses(OWN, actions=rest)) as registry:
        answer = await registry.create(key=OWN)
        assert is_denied(answer)
        assert lacking in said(answer)["message"]


async def test_a_policy_for_ecrs_use_of_the_key_is_enough(world: Open) -> None:
    """kms:ViaService and kms:CallerAccount are what AWS's own examples narrow such a right by."""
    via = {"kms:ViaService": "ecr.us-east-1.amazonaws.com", "kms:CallerAccount": ACCOUNT}
    async with world({**uses("*"), "Condition": {"StringEquals": via}}) as registry:
        assert encryption_in(await registry.create(key=OWN))["kmsKey"] == OWN


@pytest.mark.parametrize("name", ["own", "alias/own", "none", "alias/none"])
async def test_who_may_not_use_a_key_does_not_learn_which_there_are(world: Open, name: str) -> None:
    """Neither whether a name is one, nor of which key: rights on another one are none on this."""
    async with world(uses(OTHER)) as registry:
        answer = await registry.create(key=name)
        assert is_denied(answer)
        assert said(answer)["message"].endswith(
            f":user/maker is not authorized to perform: kms:CreateGrant on resource: {name}"
        )


@pytest.mark.parametrize("pattern", [OWN, "arn:aws:kms:us-east-1:123456789012:key/*", "arn:aws:kms:*:*:key/own"])
@pytest.mark.parametrize("name", [OWN, "alias/own"])
async def test_a_key_that_the_operator_allows_may_be_named_by_anyone(world: Open, pattern: str, name: str) -> None:
    async with world(allowed=(pattern,)) as registry:
        assert encryption_in(await registry.create(key=name))["kmsKey"] == OWN


async def test_an_alias_that_the_operator_allows_is_to_be_named_by_it(world: Open) -> None:
    """Where it leads may change: what is allowed is the name, not the key that it has today."""
    async with world(allowed=("alias/o*",)) as registry:
        assert encryption_in(await registry.create(key="alias/own"))["kmsKey"] == OWN
        assert is_denied(await registry.create("another/app", key=OWN))
        assert is_denied(await registry.create("another/app", key="alias/none"))


async def test_a_wildcard_takes_in_no_other_account(world: Open) -> None:
    async with world(allowed=("arn:aws:kms:*:123456789*:key/*",)) as registry:
        assert is_denied(await registry.create(key=FOREIGN))


async def test_a_deny_wins_over_what_the_operator_allows(world: Open) -> None:
    async with world(uses(OWN, effect="Deny", actions="kms:*"), allowed=(OWN,)) as registry:
        answer = await registry.create(key=OWN)
        assert is_denied(answer)
        assert "explicit deny" in said(answer)["message"]


async def test_an_accounts_policies_do_not_reach_another_accounts_key(world: Open) -> None:
    """Its administrator may do everything, and yet nothing with what is not its account's."""
    async with world(second=True) as registry:
        assert is_denied(await registry.create(key=OWN))
        assert is_denied(await registry.create(key="alias/own"))
        assert encryption_in(await registry.create(key=FOREIGN))["kmsKey"] == FOREIGN


async def test_another_account_may_name_what_the_operator_allows(world: Open) -> None:
    async with world(second=True, allowed=(OWN,)) as registry:
        assert encryption_in(await registry.create(key=OWN))["kmsKey"] == OWN


async def test_a_template_names_no_key_that_a_repository_could_not(world: Open) -> None:
    """Neither a new one nor a changed one: who pushes under it later has no say in its key."""
    encryption = {"encryptionType": "KMS", "kmsKey": OWN}
    async with world(uses(OTHER)) as registry:
        refused = await registry.ask("CreateRepositoryCreationTemplate", **TEMPLATE, encryptionConfiguration=encryption)
        assert is_denied(refused)
        own = {"encryptionType": "KMS", "kmsKey": OTHER}
        made = await registry.ask("CreateRepositoryCreationTemplate", **TEMPLATE, encryptionConfiguration=own)
        assert made.status == 200, made.body
        changed = {"prefix": "made", "encryptionConfiguration": encryption}
        assert is_denied(await registry.ask("UpdateRepositoryCreationTemplate", **changed))
        [kept] = said(await registry.ask("DescribeRepositoryCreationTemplates"))["repositoryCreationTemplates"]
        assert kept["encryptionConfiguration"] == own
