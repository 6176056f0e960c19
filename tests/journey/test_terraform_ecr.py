"""What Terraform's AWS provider calls for repositories, their policies, the registry's and settings, replayed by boto3.

Each resource is made, read, changed and destroyed in the provider's order of calls, on a real server and with its
retries left out: what it would wait for is there at once. A plan is empty when what is read is what was wanted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from harness.accounts import Key, open_account
from harness.policies import PULL, allow, policy
from harness.server import Server

REGION = "us-east-1"

_session = boto3.session.Session()


class Provider:
    """As configured with `endpoints { ecr, iam, sts }` and the keys of an account's administrator."""

    def __init__(self, server: Server, account: str, key: Key) -> None:
        self.account = account
        self.ecr, self.iam, self.sts = (
            _session.client(
                service,
                endpoint_url=server.url,
                region_name=REGION,
                aws_access_key_id=key[0],
                aws_secret_access_key=key[1],
                config=Config(retries={"total_max_attempts": 1}),
            )
            for service in ("ecr", "iam", "sts")
        )
        assert self.sts.get_caller_identity()["Account"] == account  # what it begins with

    def read_repository(self, name: str) -> dict[str, Any]:
        [found] = self.ecr.describe_repositories(repositoryNames=[name])["repositories"]
        tags = self.ecr.list_tags_for_resource(resourceArn=found["repositoryArn"])["tags"]
        return {
            "name": found["repositoryName"],
            "image_tag_mutability": found["imageTagMutability"],
            "scan_on_push": found["imageScanningConfiguration"]["scanOnPush"],
            "encryption_type": found["encryptionConfiguration"]["encryptionType"],
            "tags": {tag["Key"]: tag["Value"] for tag in tags},
        }

    def read_policy(self, name: str, wanted: str) -> str:
        """What goes into the state: the text that was wanted, where the one that is there means the same."""
        found: str = self.ecr.get_repository_policy(repositoryName=name)["policyText"]
        return wanted if _meaning(json.loads(found)) == _meaning(json.loads(wanted)) else found

    def make_role(self, name: str) -> str:
        trust = policy(allow("sts:AssumeRole", Principal={"AWS": self.account}))
        arn: str = self.iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
        return arn


def _meaning(document: Any) -> Any:
    """Without the choice between a value and a list of that value, and without order in lists of strings."""
    if isinstance(document, dict):
        return {key: _meaning(value) for key, value in document.items()}
    if isinstance(document, list):
        found = [_meaning(value) for value in document]
        return found[0] if len(found) == 1 else sorted(found, key=json.dumps)
    return document


def normal(document: dict[str, Any]) -> str:
    """As the provider sends it: keys in order, no white space."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def code(call: Callable[..., Any], **parameters: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    found: str = caught.value.response["Error"]["Code"]
    return found


@pytest.fixture
def provider(server: Server, account: str) -> Provider:
    return Provider(server, account, open_account(server, account))


def test_a_repository_and_its_policy(provider: Provider) -> None:
    """aws_ecr_repository, aws_iam_role, aws_ecr_repository_policy."""
    ecr, name = provider.ecr, "team/app"
    wanted: dict[str, Any] = {
        "name": name,
        "image_tag_mutability": "IMMUTABLE",
        "scan_on_push": True,
        "encryption_type": "AES256",
        "tags": {"team": "blue", "cost": "9"},
    }
    made = ecr.create_repository(
        repositoryName=name,
        imageTagMutability="IMMUTABLE",
        imageScanningConfiguration={"scanOnPush": True},
        encryptionConfiguration={"encryptionType": "AES256"},
        tags=[{"Key": key, "Value": value} for key, value in wanted["tags"].items()],
    )["repository"]
    assert provider.read_repository(name) == wanted

    role = provider.make_role("puller")
    text = normal(policy(allow(PULL, Sid="Pull", Principal={"AWS": [role]})))
    ecr.set_repository_policy(repositoryName=name, policyText=text)
    assert provider.read_policy(name, text) == text
    listed = normal(policy(allow(PULL[::-1], Sid="Pull", Principal={"AWS": role})))
    assert provider.read_policy(name, listed) == listed  # another order is no change

    # apply: other tags, another policy
    ecr.untag_resource(resourceArn=made["repositoryArn"], tagKeys=["cost"])
    ecr.tag_resource(resourceArn=made["repositoryArn"], tags=[{"Key": "team", "Value": "red"}])
    ecr.put_image_tag_mutability(registryId=made["registryId"], repositoryName=name, imageTagMutability="MUTABLE")
    assert provider.read_repository(name) == {**wanted, "tags": {"team": "red"}, "image_tag_mutability": "MUTABLE"}
    both = normal(
        policy(allow(PULL, Principal={"AWS": [role, provider.account]}), allow("ecr:ListImages", Principal="*"))
    )
    ecr.set_repository_policy(repositoryName=name, policyText=both)
    assert provider.read_policy(name, both) == both

    # a role that is made anew is another one: the plan shows it, and an apply mends it
    provider.iam.delete_role(RoleName="puller")
    provider.make_role("puller")
    assert "AROA" in provider.read_policy(name, both)
    ecr.set_repository_policy(repositoryName=name, policyText=both)
    assert provider.read_policy(name, both) == both

    # destroy, in the order of dependencies; each is gone at once
    ecr.delete_repository_policy(repositoryName=name, registryId=provider.account)
    gone = "RepositoryPolicyNotFoundException"
    assert code(ecr.get_repository_policy, repositoryName=name) == gone
    assert code(ecr.delete_repository_policy, repositoryName=name, registryId=provider.account) == gone
    provider.iam.delete_role(RoleName="puller")
    ecr.delete_repository(repositoryName=name, registryId=provider.account, force=False)
    assert code(ecr.describe_repositories, repositoryNames=[name]) == "RepositoryNotFoundException"
    assert code(ecr.get_repository_policy, repositoryName=name) == "RepositoryNotFoundException"
    assert code(ecr.list_tags_for_resource, resourceArn=made["repositoryArn"]) == "RepositoryNotFoundException"


def test_what_it_retries_a_policy_for_is_named_as_it_expects(provider: Provider) -> None:
    """A role that is not there yet, in AWS, is answered so: the provider looks for these words."""
    provider.ecr.create_repository(repositoryName="app")
    nobody = policy(allow(PULL, Principal={"AWS": f"arn:aws:iam::{provider.account}:role/later"}))
    with pytest.raises(ClientError) as caught:
        provider.ecr.set_repository_policy(repositoryName="app", policyText=normal(nobody))
    error = caught.value.response["Error"]
    assert error["Code"] == "InvalidParameterException"
    assert "Principal not found" in error["Message"]
    provider.make_role("later")
    provider.ecr.set_repository_policy(repositoryName="app", policyText=normal(nobody))


def test_a_registrys_policy_and_its_settings(provider: Provider) -> None:
    """aws_ecr_registry_policy, aws_ecr_account_setting; the latter is never destroyed."""
    ecr = provider.ecr
    arn = f"arn:aws:ecr:{REGION}:{provider.account}:repository/*"
    for actions in (PULL, ["ecr:CreateRepository", *PULL]):
        text = normal(policy(allow(actions, Principal={"AWS": provider.account}, Resource=[arn])))
        assert ecr.put_registry_policy(policyText=text)["registryId"] == provider.account
        assert ecr.get_registry_policy()["policyText"] == text
    ecr.delete_registry_policy()
    assert code(ecr.get_registry_policy) == "RegistryPolicyNotFoundException"
    assert code(ecr.delete_registry_policy) == "RegistryPolicyNotFoundException"
    for name, value in (
        ("REGISTRY_POLICY_SCOPE", "V1"),
        ("REGISTRY_POLICY_SCOPE", "V2"),
        ("BASIC_SCAN_TYPE_VERSION", "AWS_NATIVE"),
        ("BLOB_MOUNTING", "DISABLED"),
    ):
        ecr.put_account_setting(name=name, value=value)
        read = ecr.get_account_setting(name=name)
        assert (read["name"], read["value"]) == (name, value)


def test_boto3_pages_through_repositories_and_images(provider: Provider) -> None:
    names = [f"n{number}" for number in range(5)]
    for name in names:
        provider.ecr.create_repository(repositoryName=name)
    repositories = provider.ecr.get_paginator("describe_repositories")
    pages = list(repositories.paginate(PaginationConfig={"PageSize": 2}))
    assert [each["repositoryName"] for page in pages for each in page["repositories"]] == names
    assert len(pages) == 3
    first = repositories.paginate(PaginationConfig={"MaxItems": 3, "PageSize": 2}).build_full_result()
    assert [each["repositoryName"] for each in first["repositories"]] == names[:3]
    rest = repositories.paginate(PaginationConfig={"StartingToken": first["NextToken"]}).build_full_result()
    assert [each["repositoryName"] for each in rest["repositories"]] == names[3:]
    for operation in ("list_images", "describe_images"):
        assert list(provider.ecr.get_paginator(operation).paginate(repositoryName="n0"))
