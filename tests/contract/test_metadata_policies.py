"""What the metadata service keeps of policies, account settings and repository tags, through every client."""

from __future__ import annotations

import json
from collections.abc import Awaitable
from functools import partial
from typing import Any

import botocore.session
import botocore.validate
import pytest
from sqlalchemy import delete, update

from proxy.metadata.db.identity_tables import accounts, attached_policies, principals
from proxy.metadata.db.transaction import Transaction
from proxy.model.errors import Code, Failure
from proxy.model.identity import BoundPolicy, PolicyScope
from support.iam_shapes import Asked
from support.metadata import ACCOUNT, REPOSITORY, World, digest

ARN = f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/{REPOSITORY}"
ADMINISTRATOR = f"arn:aws:iam::{ACCOUNT}:user/administrator"
NOBODY = f"arn:aws:iam::{ACCOUNT}:user/nobody"
ECR = botocore.session.get_session().get_service_model("ecr")


@pytest.fixture(autouse=True)
async def account(world: World) -> str:
    """The account is open, the repository there; the administrator's unique id."""
    found = await world.bootstrap()
    assert found.administrator is not None
    await world.call("CreateRepository", repositoryName=REPOSITORY)
    return found.administrator.principal_id


async def refused(code: Code, asking: Awaitable[Any]) -> str:
    with pytest.raises(Failure) as caught:
        await asking
    assert caught.value.code is code, caught.value
    return caught.value.message


async def call(world: World, operation: str, **parameters: Any) -> dict[str, Any]:
    """The answer, whose members are those of the model's output and have its types."""
    answer = await world.call(operation, **parameters)
    shape = ECR.operation_model(operation).output_shape
    assert answer.keys() <= shape.members.keys()
    report = botocore.validate.ParamValidator().validate(answer, shape)
    assert not report.has_errors(), report.generate_report()
    return answer


def policy(*named: str, action: str = "ecr:BatchGetImage", **more: Any) -> str:
    """A policy with spaces of its own, to be kept as it is."""
    statement = {"Effect": "Allow", "Principal": {"AWS": list(named) or [ACCOUNT]}, "Action": action, **more}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]}, indent=3) + "\n"


async def remove(world: World, principal_id: str) -> None:
    """A principal that is gone."""

    def run(tx: Transaction) -> None:
        tx.connection.execute(delete(attached_policies).where(attached_policies.c.holder_id == principal_id))
        tx.connection.execute(delete(principals).where(principals.c.principal_id == principal_id))
        tx.changes.identity = True

    assert world.service is not None
    await world.service.store.write(run)


class TestRepositoryPolicies:
    async def test_a_policy_is_kept_to_the_letter_and_bound_to_who_it_names(self, world: World, account: str) -> None:
        text = policy(ADMINISTRATOR)
        kept = {"registryId": ACCOUNT, "repositoryName": REPOSITORY, "policyText": text}
        assert await call(world, "SetRepositoryPolicy", repositoryName=REPOSITORY, policyText=text) == kept
        assert await call(world, "GetRepositoryPolicy", repositoryName=REPOSITORY) == kept
        access = await world.metadata.repository_access(ACCOUNT, REPOSITORY)
        assert access.policy == BoundPolicy(text, ((ADMINISTRATOR, account),))

    async def test_what_many_repositories_say_of_access_is_what_each_says(self, world: World) -> None:
        """In the order that was asked for, also of what is not there and of the same one twice."""
        await call(world, "SetRepositoryPolicy", repositoryName=REPOSITORY, policyText=policy())
        tags = [{"Key": key, "Value": key} for key in "ba"]
        await call(world, "CreateRepository", repositoryName="b/b", tags=tags)
        names = ["b/b", "no/where", REPOSITORY, "b/b"]
        found = await world.metadata.repositories_access(ACCOUNT, names)
        assert list(found) == [await world.metadata.repository_access(ACCOUNT, name) for name in names]
        assert [access.tags for access in found] == [(("a", "a"), ("b", "b")), (), (), (("a", "a"), ("b", "b"))]

    async def test_a_policy_that_is_set_changed_or_deleted_counts_at_once(self, world: World) -> None:
        for text in (policy(), policy(action="ecr:PutImage")):
            await call(world, "SetRepositoryPolicy", repositoryName=REPOSITORY, policyText=text)
            access = await world.metadata.repository_access(ACCOUNT, REPOSITORY)
            assert access.policy is not None
            assert access.policy.text == text
        assert (await call(world, "DeleteRepositoryPolicy", repositoryName=REPOSITORY))["policyText"] == text
        assert (await world.metadata.repository_access(ACCOUNT, REPOSITORY)).policy is None
        why = await refused(
            Code.REPOSITORY_POLICY_NOT_FOUND, world.call("DeleteRepositoryPolicy", repositoryName=REPOSITORY)
        )
        assert why == (
            f"Repository policy does not exist for the repository with name '{REPOSITORY}' in the registry with id "
            f"'{ACCOUNT}'"
        )

    async def test_who_is_gone_stands_there_by_its_unique_id_and_is_bound_to_nobody(
        self, world: World, account: str
    ) -> None:
        text = policy(ADMINISTRATOR, ACCOUNT)
        await call(world, "SetRepositoryPolicy", repositoryName=REPOSITORY, policyText=text)
        await remove(world, account)
        await world.call("TagResource", resourceArn=ARN, tags=[])  # so that nobody goes by what was known
        shown = (await call(world, "GetRepositoryPolicy", repositoryName=REPOSITORY))["policyText"]
        assert json.loads(shown)["Statement"][0]["Principal"]["AWS"] == [account, ACCOUNT]
        access = await world.metadata.repository_access(ACCOUNT, REPOSITORY)
        assert access.policy == BoundPolicy(text, ((ADMINISTRATOR, ""),))
        await refused(
            Code.INVALID_PARAMETER, world.call("SetRepositoryPolicy", repositoryName=REPOSITORY, policyText=shown)
        )

    async def test_a_roles_session_is_bound_to_the_role_of_that_moment(self, world: World) -> None:
        """Made anew under its name, the role is somebody else, also by its sessions; the policy shows the old one's."""
        iam = Asked(world.metadata, ACCOUNT)
        trust = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"sts:AssumeRole"}]}'
        session = f"arn:aws:sts::{ACCOUNT}:assumed-role/ci/build"
        asking = {"repositoryName": REPOSITORY, "policyText": policy(session)}
        assert session in await refused(Code.INVALID_PARAMETER, world.call("SetRepositoryPolicy", **asking))
        made = (await iam("CreateRole", RoleName="ci", Path="/build/", AssumeRolePolicyDocument=trust))["Role"]
        await call(world, "SetRepositoryPolicy", **asking)
        assert (await call(world, "GetRepositoryPolicy", repositoryName=REPOSITORY))["policyText"] == policy(session)
        access = await world.metadata.repository_access(ACCOUNT, REPOSITORY)
        assert access.policy == BoundPolicy(policy(session), ((session, made["RoleId"]),))
        await iam("DeleteRole", RoleName="ci")
        await iam("CreateRole", RoleName="ci", Path="/build/", AssumeRolePolicyDocument=trust)
        await world.call("TagResource", resourceArn=ARN, tags=[])
        access = await world.metadata.repository_access(ACCOUNT, REPOSITORY)
        assert access.policy == BoundPolicy(policy(session), ((session, ""),))
        shown = (await call(world, "GetRepositoryPolicy", repositoryName=REPOSITORY))["policyText"]
        assert json.loads(shown)["Statement"][0]["Principal"]["AWS"] == [f"{made['RoleId']}:build"]
        wrong_case = policy(session.replace("/ci/", "/CI/"))
        asking = {"repositoryName": REPOSITORY, "policyText": wrong_case}
        await refused(Code.INVALID_PARAMETER, world.call("SetRepositoryPolicy", **asking))

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            (policy(NOBODY), '\'Principal not found\': Invalid principal in policy: "AWS":"' + NOBODY),
            (policy("arn:aws:iam::000000000000:root"), "'Principal not found'"),
            (
                policy(action="s3:GetObject"),
                "'Invalid repository policy provided': Action s3:GetObject is none of ECR's",
            ),
            (policy(Resource="*"), "'Invalid repository policy provided': A repository's policy has no Resource"),
            ("{", "'Invalid repository policy provided'"),
            ("", "'Invalid repository policy provided'"),
            ("[]", "'Invalid repository policy provided'"),
            (
                json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "ecr:*"}]}),
                "'Invalid repository policy provided': Missing required field Principal",
            ),
        ],
        ids=["nobody", "no-account", "other-service", "resource", "cut", "empty", "list", "no-principal"],
    )
    async def test_a_policy_that_can_be_none_is_refused_in_aws_words_and_the_reason(
        self, world: World, text: str, why: str
    ) -> None:
        message = await refused(
            Code.INVALID_PARAMETER, world.call("SetRepositoryPolicy", repositoryName=REPOSITORY, policyText=text)
        )
        assert message.startswith(f"Invalid parameter at 'PolicyText' failed to satisfy constraint: {why}")
        assert (await world.metadata.repository_access(ACCOUNT, REPOSITORY)).policy is None

    async def test_a_policy_has_at_most_10240_characters(self, world: World) -> None:
        text = policy() + " " * 10_240
        await refused(
            Code.INVALID_PARAMETER, world.call("SetRepositoryPolicy", repositoryName=REPOSITORY, policyText=text)
        )

    async def test_binding_keeps_nothing(self, world: World, account: str) -> None:
        text = policy(ADMINISTRATOR)
        assert await world.metadata.bind_repository_policy(ACCOUNT, text) == BoundPolicy(
            text, ((ADMINISTRATOR, account),)
        )
        assert (await world.metadata.repository_access(ACCOUNT, REPOSITORY)).policy is None

    async def test_of_a_repository_that_is_not_there_there_is_no_policy(self, world: World) -> None:
        for operation, more in (("SetRepositoryPolicy", {"policyText": policy()}), ("GetRepositoryPolicy", {})):
            await refused(Code.REPOSITORY_NOT_FOUND, world.call(operation, repositoryName="no/where", **more))


class TestRegistryPolicies:
    async def test_a_policy_is_kept_bound_shown_and_deleted(self, world: World, account: str) -> None:
        text = policy(ADMINISTRATOR, Resource=f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/*")
        assert (await world.metadata.registry_access(ACCOUNT)).policy is None
        kept = {"registryId": ACCOUNT, "policyText": text}
        assert await call(world, "PutRegistryPolicy", policyText=text) == kept
        assert await call(world, "GetRegistryPolicy") == kept
        access = await world.metadata.registry_access(ACCOUNT)
        assert access.policy == BoundPolicy(text, ((ADMINISTRATOR, account),))
        assert await call(world, "DeleteRegistryPolicy") == kept
        assert (await world.metadata.registry_access(ACCOUNT)).policy is None
        for operation in ("GetRegistryPolicy", "DeleteRegistryPolicy"):
            why = await refused(Code.REGISTRY_POLICY_NOT_FOUND, world.call(operation))
            assert why == f"Registry policy does not exist in the registry with id '{ACCOUNT}'"

    async def test_in_scope_v1_only_three_actions_may_be_spoken_of(self, world: World) -> None:
        arn = f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/*"
        pull, replicate = policy(Resource=arn), policy(action="ecr:ReplicateImage", Resource=arn)
        await call(world, "PutRegistryPolicy", policyText=pull)
        await call(world, "PutAccountSetting", name="REGISTRY_POLICY_SCOPE", value="V1")
        why = await refused(Code.INVALID_PARAMETER, world.call("PutRegistryPolicy", policyText=pull))
        assert "'Invalid registry policy provided'" in why
        await call(world, "PutRegistryPolicy", policyText=replicate)


class TestAccountSettings:
    @pytest.mark.parametrize(
        ("name", "first", "other"),
        [
            ("BASIC_SCAN_TYPE_VERSION", "AWS_NATIVE", "CLAIR"),
            ("BLOB_MOUNTING", "ENABLED", "DISABLED"),
            ("REGISTRY_POLICY_SCOPE", "V2", "V1"),
        ],
    )
    async def test_a_setting_has_its_default_and_can_be_changed(
        self, world: World, name: str, first: str, other: str
    ) -> None:
        assert await call(world, "GetAccountSetting", name=name) == {"name": name, "value": first}
        for value in (other, first, other):
            assert await call(world, "PutAccountSetting", name=name, value=value) == {"name": name, "value": value}
            assert (await call(world, "GetAccountSetting", name=name))["value"] == value
            access = await world.metadata.registry_access(ACCOUNT)
            assert access.blob_mounting == (name != "BLOB_MOUNTING" or value == first)
            assert access.policy_scope == (PolicyScope.V1 if value == "V1" else PolicyScope.V2)

    async def test_what_is_no_setting_or_no_value_is_refused(self, world: World) -> None:
        await refused(Code.VALIDATION, world.call("GetAccountSetting", name="NO_SUCH"))
        await refused(Code.VALIDATION, world.call("PutAccountSetting", name="blob_mounting", value="ENABLED"))
        await refused(Code.INVALID_PARAMETER, world.call("PutAccountSetting", name="BLOB_MOUNTING", value="enabled"))
        await refused(Code.INVALID_PARAMETER, world.call("PutAccountSetting", name="BLOB_MOUNTING", value=""))

    async def test_an_account_that_is_not_open_has_none(self, world: World) -> None:
        for account in ("210987654321", ACCOUNT):
            closing = partial(_close, account=ACCOUNT)
            assert world.service is not None
            await world.service.store.write(closing)
            await refused(
                Code.ACCESS_DENIED, world.metadata.call(account, "GetAccountSetting", {"name": "BLOB_MOUNTING"})
            )


def _close(tx: Transaction, account: str) -> None:
    tx.connection.execute(update(accounts).where(accounts.c.account == account).values(closed_at=tx.now))
    tx.changed(account, "")


class TestTags:
    async def test_tags_are_added_changed_listed_and_removed(self, world: World) -> None:
        assert await call(world, "ListTagsForResource", resourceArn=ARN) == {"tags": []}
        await call(world, "TagResource", resourceArn=ARN, tags=[{"Key": "b", "Value": "1"}, {"Key": "a", "Value": ""}])
        await call(world, "TagResource", resourceArn=ARN, tags=[{"Key": "b", "Value": "2"}])
        listed = await call(world, "ListTagsForResource", resourceArn=ARN)
        assert listed == {"tags": [{"Key": "a", "Value": ""}, {"Key": "b", "Value": "2"}]}
        assert (await world.metadata.repository_access(ACCOUNT, REPOSITORY)).tags == (("a", ""), ("b", "2"))
        assert await call(world, "UntagResource", resourceArn=ARN, tagKeys=["a", "never"]) == {}
        assert (await world.metadata.repository_access(ACCOUNT, REPOSITORY)).tags == (("b", "2"),)

    @pytest.mark.parametrize(
        ("keys", "code"),
        [
            (["k" * 129], Code.INVALID_TAG_PARAMETER),
            (["b", ""], Code.INVALID_TAG_PARAMETER),
            (["b", *(f"key-{number}" for number in range(50))], Code.TOO_MANY_TAGS),
        ],
    )
    async def test_keys_that_no_repository_can_have_take_nothing_away(
        self, world: World, keys: list[str], code: Code
    ) -> None:
        await call(world, "TagResource", resourceArn=ARN, tags=[{"Key": "b", "Value": "1"}])
        await refused(code, world.call("UntagResource", resourceArn=ARN, tagKeys=keys))
        assert await call(world, "ListTagsForResource", resourceArn=ARN) == {"tags": [{"Key": "b", "Value": "1"}]}

    async def test_a_tag_is_not_set_again_in_another_case(self, world: World) -> None:
        """Policies do not tell keys apart by case: whoever may set TEAM must not thereby decide what team is."""
        await call(world, "TagResource", resourceArn=ARN, tags=[{"Key": "team", "Value": "blue"}])
        said = await refused(
            Code.INVALID_TAG_PARAMETER,
            world.call("TagResource", resourceArn=ARN, tags=[{"Key": "TEAM", "Value": "red"}]),
        )
        assert said.startswith("Invalid tag key 'TEAM': the repository has the tag 'team'")
        assert (await world.metadata.repository_access(ACCOUNT, REPOSITORY)).tags == (("team", "blue"),)

    async def test_a_repository_has_at_most_fifty_tags(self, world: World) -> None:
        tags = [{"Key": str(number), "Value": ""} for number in range(50)]
        await call(world, "TagResource", resourceArn=ARN, tags=tags)
        await call(world, "TagResource", resourceArn=ARN, tags=tags[:3])
        await refused(
            Code.TOO_MANY_TAGS, world.call("TagResource", resourceArn=ARN, tags=[{"Key": "one more", "Value": ""}])
        )
        await refused(
            Code.TOO_MANY_TAGS,
            world.call("CreateRepository", repositoryName="a/b", tags=[*tags, {"Key": "x", "Value": ""}]),
        )

    @pytest.mark.parametrize(
        "tags",
        [
            [{"Key": "", "Value": ""}],
            [{"Key": "k" * 129, "Value": ""}],
            [{"Key": "k", "Value": "v" * 257}],
            [{"Key": "k", "Value": "1"}, {"Key": "k", "Value": "2"}],
            [{"Key": "k", "Value": "1"}, {"Key": "K", "Value": "2"}],
            [{"Key": "AWS:k", "Value": ""}],
        ],
        ids=["empty", "long key", "long value", "twice", "twice but for case", "reserved"],
    )
    async def test_a_tag_that_can_be_none_is_refused(self, world: World, tags: list[dict[str, str]]) -> None:
        await refused(Code.INVALID_TAG_PARAMETER, world.call("TagResource", resourceArn=ARN, tags=tags))
        await refused(Code.INVALID_TAG_PARAMETER, world.call("CreateRepository", repositoryName="other/app", tags=tags))

    @pytest.mark.parametrize(
        "arn",
        [
            "x",
            ARN.replace(ACCOUNT, "210987654321"),
            ARN.replace("us-east-1", "eu-west-1"),
            f"arn:aws:ecr:us-east-1:{ACCOUNT}:x",
        ],
        ids=["none", "other account", "other region", "other type"],
    )
    async def test_an_arn_of_nothing_here_is_refused(self, world: World, arn: str) -> None:
        assert "'Invalid ARN'" in await refused(
            Code.INVALID_PARAMETER, world.call("ListTagsForResource", resourceArn=arn)
        )

    async def test_a_repository_that_is_not_there_is_not_found(self, world: World) -> None:
        await refused(Code.REPOSITORY_NOT_FOUND, world.call("ListTagsForResource", resourceArn=f"{ARN}-not"))


class TestHolders:
    async def test_the_repositories_that_hold_a_blob_are_named_up_to_a_bound(self, world: World) -> None:
        for repository in ("c/x", "a/x", "b/x"):
            await world.commit("layer", repository)
        held = digest("layer")
        assert sorted(await world.metadata.blob_holders(ACCOUNT, held, limit=20)) == ["a/x", "b/x", "c/x"]
        assert len(set(await world.metadata.blob_holders(ACCOUNT, held, limit=2))) == 2
        assert await world.metadata.blob_holders("210987654321", held, limit=2) == ()
        assert await world.metadata.blob_holders(ACCOUNT, digest("other"), limit=2) == ()

    async def test_a_blob_that_is_quarantined_is_held_by_nobody(self, world: World) -> None:
        blob, _ = await world.commit("layer")
        await world.metadata.quarantine(blob.sealed.object_key, "a bad frame")
        assert await world.metadata.blob_holders(ACCOUNT, blob.digest, limit=20) == ()
