"""The tutorial's section on registries: who may do what in them, typed into the real aws command."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.accounts import open_account
from support.aws_command import REGION, Aws, said
from support.policies import allow, policy
from support.server import Server

pytestmark = [pytest.mark.clients, pytest.mark.needs("aws"), pytest.mark.timeout(600)]


def test_who_may_do_what_in_a_registry(server: Server, aws: Aws, account: str, tmp_path: Path) -> None:
    app = f"arn:aws:ecr:{REGION}:{account}:repository/team/app"
    other = f"{(int(account) + 1) % 10**12:012}"
    they = Aws(server.url, tmp_path, open_account(server, other))
    them = f"arn:aws:iam::{other}:user/administrator"
    named = "--repository-name team/app"

    # Tags, which policies may ask for.
    aws(f"aws ecr create-repository {named} --tags Key=stage,Value=test")
    aws(f"aws ecr tag-resource --resource-arn {app} --tags Key=team,Value=blue")
    aws(f"aws ecr untag-resource --resource-arn {app} --tag-keys stage")
    assert aws(f"aws ecr list-tags-for-resource --resource-arn {app}")["tags"] == [{"Key": "team", "Value": "blue"}]

    # The repository's policy lets another account in.
    listing = f"aws ecr list-images {named} --registry-id {account}"
    sentence = (
        f"User: {them} is not authorized to perform: ecr:ListImages on resource: {app} because no resource-based "
    )
    assert said(they.error(listing)) == ("AccessDeniedException", f"{sentence}policy allows the ecr:ListImages action")
    none = (
        f"Repository policy does not exist for the repository with name 'team/app' in the registry with id '{account}'"
    )
    assert said(aws.error(f"aws ecr get-repository-policy {named}")) == ("RepositoryPolicyNotFoundException", none)
    aws.write("share.json", policy(allow("ecr:ListImages", Principal={"AWS": other})))
    aws(f"aws ecr set-repository-policy {named} --policy-text file://share.json")
    text = (tmp_path / "share.json").read_text()
    assert aws.text(f"aws ecr get-repository-policy {named} --query policyText --output text") == text
    assert they(listing) == {"imageIds": []}
    assert aws(f"aws ecr delete-repository-policy {named}")["policyText"] == text
    assert said(they.error(listing))[0] == "AccessDeniedException"

    # Not every text is a policy; one that locks its author out wants to be forced.
    wrong = "Invalid parameter at 'PolicyText' failed to satisfy constraint: 'Invalid repository policy provided'"
    assert said(aws.error(f"aws ecr set-repository-policy {named} --policy-text '{{'"))[1].startswith(wrong)
    aws.write("lock.json", policy({"Effect": "Deny", "Principal": "*", "Action": "ecr:SetRepositoryPolicy"}))
    lock = f"aws ecr set-repository-policy {named} --policy-text file://lock.json"
    assert said(aws.error(lock))[0] == "InvalidParameterException"
    aws(f"{lock} --force")
    assert said(aws.error(lock))[1].endswith("with an explicit deny in a resource-based policy")

    # The registry's policy is about all of its repositories, unless the account wants the old scope.
    every = app.replace("team/app", "*")
    aws.write("registry.json", policy(allow("ecr:ListImages", Principal={"AWS": them}, Resource=every)))
    missing = ("RegistryPolicyNotFoundException", f"Registry policy does not exist in the registry with id '{account}'")
    assert said(aws.error("aws ecr get-registry-policy")) == missing
    aws("aws ecr put-registry-policy --policy-text file://registry.json")
    assert aws("aws ecr get-registry-policy")["registryId"] == account
    assert they(listing) == {"imageIds": []}
    aws("aws ecr put-account-setting --name REGISTRY_POLICY_SCOPE --value V1")
    assert aws.text("aws ecr get-account-setting --name REGISTRY_POLICY_SCOPE --query value --output text") == "V1"
    assert said(they.error(listing))[0] == "AccessDeniedException"
    assert said(aws.error("aws ecr get-account-setting --name COLOUR"))[0] == "ValidationException"
    aws("aws ecr delete-registry-policy")
