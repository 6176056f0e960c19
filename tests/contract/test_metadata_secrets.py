"""What the metadata service keeps of secrets: labels, deletion and recovery, lists; through every client."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.awsmodel import models
from proxy.metadata.db.transaction import Registry
from proxy.model.errors import Code, Failure
from proxy.model.quotas import Quotas
from proxy.model.secrets import SecretHead
from support.metadata import ACCOUNT, World
from support.response_shapes import check, declared

models.service("secretsmanager")  # read before a loop runs
NAME = "ecr-pullthroughcache/hub"
DAY = 86_400
MOST = 5


@pytest.fixture
def registry() -> Registry:
    return Registry(quotas=Quotas(secrets=MOST))


@pytest.fixture(autouse=True)
async def account(world: World) -> None:
    await world.bootstrap()


def arn_of(name: str, suffix: str = "AbCdEf") -> str:
    return f"arn:aws:secretsmanager:us-east-1:{ACCOUNT}:secret:{name}-{suffix}"


ARN = arn_of(NAME)


def version(number: int) -> str:
    return f"version-{number}".ljust(36, "x")


async def write(world: World, operation: str, sealed: bytes = b"", /, **parameters: Any) -> dict[str, Any]:
    answer = await world.metadata.write_secrets(ACCOUNT, operation, parameters, sealed=sealed)
    check("secretsmanager", operation, answer)
    return answer


async def read(world: World, operation: str, **parameters: Any) -> dict[str, Any]:
    answer = await world.metadata.read_secrets(ACCOUNT, operation, parameters)
    check("secretsmanager", operation, answer)
    return answer


async def create(world: World, name: str = NAME, sealed: bytes = b"one", suffix: str = "AbCdEf", **more: Any) -> Any:
    asked = {"Name": name, "ARN": arn_of(name, suffix), "ClientRequestToken": version(1), **more}
    return await write(world, "CreateSecret", sealed, **asked)


async def put(world: World, number: int, sealed: bytes, **more: Any) -> dict[str, Any]:
    return await write(world, "PutSecretValue", sealed, SecretId=ARN, ClientRequestToken=version(number), **more)


async def refused(code: Code, operation: str, asking: Any) -> str:
    with pytest.raises(Failure) as caught:
        await asking
    assert caught.value.code is code, caught.value
    assert code.value in declared("secretsmanager", operation)
    return caught.value.message


async def stages(world: World) -> dict[str, list[str]]:
    found: dict[str, list[str]] = (await read(world, "DescribeSecret", SecretId=ARN))["VersionIdsToStages"]
    return found


async def current(world: World, *, version_id: str = "", stage: str = "") -> bytes | None:
    if not version_id and not stage:
        found = await world.metadata.secret_version(ACCOUNT, ARN)
    else:
        found = await world.metadata.find_secret_version(ACCOUNT, ARN, version_id, stage)
    return found.sealed if found is not None else None


async def test_a_secret_comes_back_as_it_was_given(world: World) -> None:
    tags = [{"Key": "team", "Value": "a"}]
    made = await create(world, Description="of the hub", Tags=tags)
    assert made == {"ARN": ARN, "Name": NAME, "VersionId": version(1)}
    assert await read(world, "DescribeSecret", SecretId=ARN) == {
        "ARN": ARN,
        "Name": NAME,
        "Description": "of the hub",
        "Tags": tags,
        "CreatedDate": world.clock(),
        "LastChangedDate": world.clock(),
        "VersionIdsToStages": {version(1): ["AWSCURRENT"]},
    }
    assert await current(world) == b"one"
    assert await read(world, "GetResourcePolicy", SecretId=ARN) == {"ARN": ARN, "Name": NAME}


async def test_it_is_found_by_its_name_its_arn_and_its_arn_without_the_suffix(world: World) -> None:
    await create(world)
    head = SecretHead(ARN, NAME)
    for name in (ARN, ARN.removesuffix("-AbCdEf"), NAME):
        assert await world.metadata.secret(ACCOUNT, name) == head
    for other in (ARN.replace("us-east-1", "eu-west-1"), ARN[:-1], ARN + "x", NAME[:-1]):
        assert await world.metadata.secret(ACCOUNT, other) is None
    assert await world.metadata.secret("210987654321", ARN) is None


async def test_a_new_value_is_current_and_the_one_before_it_previous(world: World) -> None:
    await create(world)
    assert (await put(world, 2, b"two"))["VersionStages"] == ["AWSCURRENT"]
    assert await stages(world) == {version(1): ["AWSPREVIOUS"], version(2): ["AWSCURRENT"]}
    assert (await current(world), await current(world, stage="AWSPREVIOUS")) == (b"two", b"one")
    assert await current(world, version_id=version(1)) == b"one"
    assert await current(world, version_id=version(1), stage="AWSCURRENT") is None
    await write(world, "UpdateSecret", b"three", SecretId=ARN, ClientRequestToken=version(3))
    assert await stages(world) == {version(2): ["AWSPREVIOUS"], version(3): ["AWSCURRENT"]}
    assert await current(world, version_id=version(1)) is None
    assert (await read(world, "ListSecretVersionIds", SecretId=ARN))["Versions"] == [
        {"VersionId": version(2), "VersionStages": ["AWSPREVIOUS"], "CreatedDate": world.clock()},
        {"VersionId": version(3), "VersionStages": ["AWSCURRENT"], "CreatedDate": world.clock()},
    ]


async def test_the_current_value_is_that_of_the_very_last_change(world: World) -> None:
    await create(world)
    for number in range(2, 8):
        await put(world, number, b"%d" % number)
        assert await current(world) == b"%d" % number


async def test_a_token_that_is_used_names_its_version_and_changes_nothing(world: World) -> None:
    await create(world)
    why = await refused(Code.RESOURCE_EXISTS, "PutSecretValue", put(world, 1, b"other"))
    assert version(1) in why
    assert await current(world) == b"one"


async def test_labels_of_ones_own_leave_the_current_value_as_it_is_until_it_moves(world: World) -> None:
    await create(world)
    await put(world, 2, b"two", VersionStages=["AWSPENDING"])
    assert (await current(world), await current(world, stage="AWSPENDING")) == (b"one", b"two")
    move: dict[str, Any] = {"SecretId": ARN, "VersionStage": "AWSCURRENT", "MoveToVersionId": version(2)}
    operation = "UpdateSecretVersionStage"
    await refused(Code.INVALID_PARAMETER, operation, write(world, operation, **move))
    await write(world, operation, **move, RemoveFromVersionId=version(1))
    assert await stages(world) == {version(1): ["AWSPREVIOUS"], version(2): ["AWSPENDING", "AWSCURRENT"]}
    gone: dict[str, Any] = {"SecretId": ARN, "VersionStage": "AWSCURRENT", "RemoveFromVersionId": version(2)}
    await refused(Code.INVALID_PARAMETER, operation, write(world, operation, **gone))
    nowhere = {**move, "MoveToVersionId": version(9)}
    await refused(Code.RESOURCE_NOT_FOUND, operation, write(world, operation, **nowhere))


async def test_a_deleted_secret_is_of_no_use_until_it_is_restored(world: World) -> None:
    await create(world)
    gone = await write(world, "DeleteSecret", SecretId=ARN, RecoveryWindowInDays=7)
    assert gone == {"ARN": ARN, "Name": NAME, "DeletionDate": world.clock() + 7 * DAY}
    assert await current(world) is None
    assert (await read(world, "DescribeSecret", SecretId=ARN))["DeletedDate"] == world.clock() + 7 * DAY
    await refused(Code.INVALID_REQUEST, "PutSecretValue", put(world, 2, b"two"))
    await refused(Code.INVALID_REQUEST, "GetResourcePolicy", read(world, "GetResourcePolicy", SecretId=ARN))
    why = await refused(Code.INVALID_REQUEST, "CreateSecret", create(world, suffix="GhIjKl"))
    assert "scheduled for deletion" in why
    await write(world, "RestoreSecret", SecretId=ARN)
    assert await current(world) == b"one"


async def test_after_its_time_a_deleted_secret_is_gone_and_the_sweep_removes_what_was_sealed(world: World) -> None:
    await create(world)
    await write(world, "DeleteSecret", SecretId=ARN)
    assert await world.metadata.remove_secrets(limit=9) == 0
    world.clock.now += 30 * DAY
    assert await world.metadata.secret(ACCOUNT, ARN) is None
    await refused(Code.RESOURCE_NOT_FOUND, "RestoreSecret", write(world, "RestoreSecret", SecretId=ARN))
    assert [each.sealed for each in await world.metadata.sealed_versions(after=(), limit=9)] == [b"one"]
    assert await world.metadata.remove_secrets(limit=9) == 1
    assert await world.metadata.sealed_versions(after=(), limit=9) == ()
    await create(world, suffix="GhIjKl")


async def test_a_secret_deleted_without_recovery_is_gone_at_once_and_its_name_is_free(world: World) -> None:
    await create(world)
    await write(world, "DeleteSecret", SecretId=ARN, ForceDeleteWithoutRecovery=True)
    assert await world.metadata.secret(ACCOUNT, NAME) is None
    assert await current(world) is None
    await create(world, suffix="GhIjKl")
    assert await current(world) is None  # another ARN is another secret


async def test_a_name_is_taken_once(world: World) -> None:
    await create(world)
    await refused(Code.RESOURCE_EXISTS, "CreateSecret", create(world, suffix="GhIjKl"))


async def test_an_account_has_as_many_secrets_as_its_quota(world: World) -> None:
    for number in range(MOST):
        await create(world, f"s{number}")
    await refused(Code.LIMIT_EXCEEDED, "CreateSecret", create(world, "more"))


async def test_tags_are_added_changed_and_taken_away(world: World) -> None:
    await create(world, Tags=[{"Key": "a", "Value": "1"}])
    await write(world, "TagResource", SecretId=ARN, Tags=[{"Key": "a", "Value": "2"}, {"Key": "b", "Value": "3"}])
    assert (await world.metadata.secret(ACCOUNT, ARN)) == SecretHead(ARN, NAME, (("a", "2"), ("b", "3")))
    await write(world, "UntagResource", SecretId=ARN, TagKeys=["a", "none"])
    assert (await read(world, "DescribeSecret", SecretId=ARN))["Tags"] == [{"Key": "b", "Value": "3"}]
    many = [{"Key": f"k{n}", "Value": ""} for n in range(51)]
    await refused(Code.INVALID_PARAMETER, "TagResource", write(world, "TagResource", SecretId=ARN, Tags=many))


async def test_secrets_are_listed_by_name_by_pages_and_by_filters(world: World) -> None:
    for name, description in (("b", "Two"), ("a", "one"), ("c", "two more")):
        await create(world, name, Description=description, Tags=[{"Key": f"of-{name}", "Value": description}])
    first = await read(world, "ListSecrets", MaxResults=2)
    rest = await read(world, "ListSecrets", MaxResults=2, NextToken=first["NextToken"])
    assert [each["Name"] for each in (*first["SecretList"], *rest["SecretList"])] == ["a", "b", "c"]
    assert "NextToken" not in rest
    assert first["SecretList"][0]["SecretVersionsToStages"] == {version(1): ["AWSCURRENT"]}

    async def named(key: str, *values: str, **more: Any) -> list[str]:
        found = await read(world, "ListSecrets", Filters=[{"Key": key, "Values": list(values)}], **more)
        return [each["Name"] for each in found["SecretList"]]

    assert await named("name", "a", "b") == ["a", "b"]
    assert await named("name", "!a") == ["b", "c"]
    assert await named("description", "TWO") == ["b", "c"]
    assert await named("tag-key", "of-") == ["a", "b", "c"]
    assert await named("tag-value", "one") == ["a"]
    assert await named("all", "more") == ["c"]
    await write(world, "DeleteSecret", SecretId=arn_of("a"), RecoveryWindowInDays=7)
    assert await named("name", "a") == []
    assert await named("name", "a", IncludePlannedDeletion=True) == ["a"]
    await refused(Code.INVALID_NEXT_TOKEN, "ListSecrets", read(world, "ListSecrets", NextToken="none"))


async def test_a_day_of_access_is_noted_once_somebody_gets_the_value(world: World) -> None:
    await create(world)
    assert await world.metadata.find_secret_version(ACCOUNT, ARN, "", "") is not None
    for _ in range(100):
        found = await read(world, "DescribeSecret", SecretId=ARN)
        if "LastAccessedDate" in found:
            break
    assert found["LastAccessedDate"] == world.clock() // DAY * DAY


async def test_sealed_values_are_walked_and_replaced_by_their_old_value(world: World) -> None:
    await create(world)
    await put(world, 2, b"two")
    await create(world, "other", sealed=b"three")
    walked: list[bytes] = []
    after: tuple[str, ...] = ()
    while page := await world.metadata.sealed_versions(after=after, limit=1):
        walked += [each.sealed for each in page]
        after = (page[-1].arn, page[-1].version_id)
    assert walked == [b"one", b"two", b"three"]
    assert not await world.metadata.replace_sealed_version(ARN, version(2), b"other", b"new")
    assert await world.metadata.replace_sealed_version(ARN, version(2), b"two", b"new")
    assert await current(world) == b"new"
