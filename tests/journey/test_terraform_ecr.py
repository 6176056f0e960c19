"""What Terraform's AWS provider calls for ECR, replayed by boto3: repositories, creation templates, policies, settings.

Each resource is made, read, changed and destroyed in the provider's order of calls (internal/service/ecr), on a real
server and with its retries left out: what it would wait for is there at once. A plan is empty when what is read is what
was wanted. Reading asks by the id alone, as an import does: what is imported is the whole of the state.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from support.accounts import Key, open_account
from support.policies import PULL, allow, policy
from support.registry import OCI_INDEX
from support.server import Server

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
        assert (found["registryId"], found["repositoryArn"].split(":")[4]) == (self.account, self.account)
        return {
            "name": found["repositoryName"],
            "scan_on_push": found["imageScanningConfiguration"]["scanOnPush"],
            **_as_state(found),
            "tags": _map(tags),
        }

    def read_template(self, prefix: str) -> dict[str, Any] | None:
        """None is what the provider takes from its state: an empty answer, as there is no error for it."""
        pages = self.ecr.get_paginator("describe_repository_creation_templates").paginate(prefixes=[prefix])
        found = [each for page in pages for each in page["repositoryCreationTemplates"]]
        if not found:
            return None
        [template] = found
        return {
            "prefix": template["prefix"],
            "applied_for": set(template["appliedFor"]),
            "custom_role_arn": template.get("customRoleArn", ""),
            "description": template.get("description", ""),
            **_as_state(template),
            "lifecycle_policy": template.get("lifecyclePolicy", ""),
            "repository_policy": template.get("repositoryPolicy", ""),
            "resource_tags": _map(template["resourceTags"]),
        }

    def read_policy(self, name: str, wanted: str) -> str:
        """What goes into the state: the text that was wanted, where the one that is there means the same."""
        found: str = self.ecr.get_repository_policy(repositoryName=name)["policyText"]
        return wanted if _meaning(json.loads(found)) == _meaning(json.loads(wanted)) else found

    def make_role(self, name: str) -> str:
        trust = policy(allow("sts:AssumeRole", Principal={"AWS": self.account}))
        arn: str = self.iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
        return arn


def _as_state(found: Mapping[str, Any]) -> dict[str, Any]:
    """What repositories and templates have in common."""
    filters = found.get("imageTagMutabilityExclusionFilters", [])
    return {
        "encryption": (
            found["encryptionConfiguration"]["encryptionType"],
            found["encryptionConfiguration"].get("kmsKey"),
        ),
        "image_tag_mutability": found["imageTagMutability"],
        "exclusion_filters": [(each["filterType"], each["filter"]) for each in filters],
    }


def _map(tags: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in tags}


def _tags(given: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in given.items()]


def _filters(*filters: str) -> list[dict[str, str]]:
    return [{"filterType": "WILDCARD", "filter": each} for each in filters]


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
        "exclusion_filters": [],
        "scan_on_push": True,
        "encryption": ("AES256", None),
        "tags": {"team": "blue", "cost": "9"},
    }
    made = ecr.create_repository(
        repositoryName=name,
        imageTagMutability="IMMUTABLE",
        imageScanningConfiguration={"scanOnPush": True},
        encryptionConfiguration={"encryptionType": "AES256"},
        tags=_tags(wanted["tags"]),
    )["repository"]
    assert provider.read_repository(name) == wanted

    role = provider.make_role("puller")
    text = normal(policy(allow(PULL, Sid="Pull", Principal={"AWS": [role]})))
    ecr.set_repository_policy(repositoryName=name, policyText=text)
    assert provider.read_policy(name, text) == text
    listed = normal(policy(allow(PULL[::-1], Sid="Pull", Principal={"AWS": role})))
    assert provider.read_policy(name, listed) == listed  # another order is no change

    # apply: another mutability, no scans, other tags; and another policy
    here = {"registryId": made["registryId"], "repositoryName": name}
    ecr.put_image_tag_mutability(
        **here, imageTagMutability="IMMUTABLE_WITH_EXCLUSION", imageTagMutabilityExclusionFilters=_filters("b*", "a*")
    )
    ecr.put_image_scanning_configuration(**here, imageScanningConfiguration={"scanOnPush": False})
    ecr.untag_resource(resourceArn=made["repositoryArn"], tagKeys=["cost"])
    ecr.tag_resource(resourceArn=made["repositoryArn"], tags=_tags({"team": "red"}))
    changed = {**wanted, "image_tag_mutability": "IMMUTABLE_WITH_EXCLUSION", "scan_on_push": False}
    changed |= {"exclusion_filters": [("WILDCARD", "b*"), ("WILDCARD", "a*")], "tags": {"team": "red"}}
    assert provider.read_repository(name) == changed
    ecr.put_image_tag_mutability(**here, imageTagMutability="MUTABLE")
    assert provider.read_repository(name) == {**changed, "image_tag_mutability": "MUTABLE", "exclusion_filters": []}
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


def test_a_repository_without_blocks_is_read_by_its_defaults(provider: Provider) -> None:
    """The provider leaves out what is not configured and takes what it reads for it; `force_delete` deletes images."""
    ecr = provider.ecr
    ecr.create_repository(repositoryName="plain", imageTagMutability="MUTABLE")
    assert provider.read_repository("plain") == {
        "name": "plain",
        "scan_on_push": False,
        "encryption": ("AES256", None),
        "image_tag_mutability": "MUTABLE",
        "exclusion_filters": [],
        "tags": {},
    }
    index = normal({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []})
    ecr.put_image(repositoryName="plain", imageManifest=index)
    delete = {"repositoryName": "plain", "registryId": provider.account}
    assert code(ecr.delete_repository, **delete, force=False) == "RepositoryNotEmptyException"
    ecr.delete_repository(**delete, force=True)
    assert code(ecr.describe_repositories, repositoryNames=["plain"]) == "RepositoryNotFoundException"
    assert code(ecr.delete_repository, **delete, force=True) == "RepositoryNotFoundException"


def test_a_creation_template(provider: Provider) -> None:
    """aws_ecr_repository_creation_template."""
    ecr = provider.ecr
    selection = {"tagStatus": "untagged", "countType": "imageCountMoreThan", "countNumber": 1}
    lifecycle = normal({"rules": [{"rulePriority": 1, "action": {"type": "expire"}, "selection": selection}]})
    shared = normal(policy(allow("ecr:ListImages", Sid="s", Principal="*")))
    wanted: dict[str, Any] = {
        "prefix": "team",
        "applied_for": {"PULL_THROUGH_CACHE", "REPLICATION"},
        "custom_role_arn": f"arn:aws:iam::{provider.account}:role/maker",
        "description": "what teams get",
        "encryption": ("AES256", None),
        "image_tag_mutability": "MUTABLE_WITH_EXCLUSION",
        "exclusion_filters": [("WILDCARD", "latest*"), ("WILDCARD", "prod-*")],
        "lifecycle_policy": lifecycle,
        "repository_policy": shared,
        "resource_tags": {"Foo": "Bar"},
    }
    made = ecr.create_repository_creation_template(
        prefix="team",
        appliedFor=["REPLICATION", "PULL_THROUGH_CACHE"],
        customRoleArn=wanted["custom_role_arn"],
        description=wanted["description"],
        encryptionConfiguration={"encryptionType": "AES256"},
        imageTagMutability="MUTABLE_WITH_EXCLUSION",
        imageTagMutabilityExclusionFilters=_filters("latest*", "prod-*"),
        lifecyclePolicy=lifecycle,
        repositoryPolicy=shared,
        resourceTags=_tags({"Foo": "Bar"}),
    )
    assert (made["registryId"], made["repositoryCreationTemplate"]["prefix"]) == (provider.account, "team")
    assert provider.read_template("team") == wanted
    again = {"prefix": "team", "appliedFor": ["REPLICATION"], "imageTagMutability": "MUTABLE"}
    assert code(ecr.create_repository_creation_template, **again) == "TemplateAlreadyExistsException"

    # apply: only what has changed is sent; filters with the mutability that they belong to
    ecr.update_repository_creation_template(
        prefix="team",
        imageTagMutability="MUTABLE_WITH_EXCLUSION",
        imageTagMutabilityExclusionFilters=_filters("prod-*", "latest*"),
    )
    wanted["exclusion_filters"].reverse()
    assert provider.read_template("team") == wanted

    # apply: what is no longer configured is sent as an empty text, and filters not at all
    ecr.update_repository_creation_template(
        prefix="team",
        appliedFor=["CREATE_ON_PUSH"],
        customRoleArn="",
        description="",
        imageTagMutability="MUTABLE",
        lifecyclePolicy="",
        repositoryPolicy="",
    )
    bare = {
        **dict.fromkeys(("custom_role_arn", "description", "lifecycle_policy", "repository_policy"), ""),
        "applied_for": {"CREATE_ON_PUSH"},
        "image_tag_mutability": "MUTABLE",
        "exclusion_filters": [],
    }
    assert provider.read_template("team") == {**wanted, **bare}

    # destroy; what is gone already is no error to the provider, by this name
    ecr.delete_repository_creation_template(prefix="team")
    assert provider.read_template("team") is None
    assert code(ecr.delete_repository_creation_template, prefix="team") == "TemplateNotFoundException"


def test_the_template_of_the_providers_own_first_test(provider: Provider) -> None:
    """Tags, and no role that would put them on: accepted, and read by its defaults."""
    every = ["CREATE_ON_PUSH", "PULL_THROUGH_CACHE", "REPLICATION"]
    asked = {"appliedFor": every, "imageTagMutability": "MUTABLE", "resourceTags": _tags({"Foo": "Bar"})}
    for prefix in ("tf-test-1", "ROOT"):
        provider.ecr.create_repository_creation_template(prefix=prefix, **asked)
        assert provider.read_template(prefix) == {
            **dict.fromkeys(("custom_role_arn", "description", "lifecycle_policy", "repository_policy"), ""),
            "prefix": prefix,
            "applied_for": set(every),
            "encryption": ("AES256", None),
            "image_tag_mutability": "MUTABLE",
            "exclusion_filters": [],
            "resource_tags": {"Foo": "Bar"},
        }


def test_a_principal_whose_pulls_do_not_count(provider: Provider) -> None:
    """aws_ecr_pull_time_update_exclusion, which is found by going through the whole list."""
    ecr, arn = provider.ecr, f"arn:aws:iam::{provider.account}:role/scanner"
    assert ecr.register_pull_time_update_exclusion(principalArn=arn)["principalArn"] == arn
    assert ecr.list_pull_time_update_exclusions()["pullTimeUpdateExclusions"] == [arn]
    ecr.deregister_pull_time_update_exclusion(principalArn=arn)
    assert ecr.list_pull_time_update_exclusions()["pullTimeUpdateExclusions"] == []
    assert code(ecr.deregister_pull_time_update_exclusion, principalArn=arn) == "ExclusionNotFoundException"
