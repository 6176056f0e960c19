"""The tutorial's section on lifecycle policies, typed into the real aws command."""

from __future__ import annotations

import json

import pytest

from support.aws_command import Aws, said
from support.registry import OCI_INDEX

pytestmark = [pytest.mark.clients, pytest.mark.needs("aws"), pytest.mark.timeout(600)]

NAMED = "--repository-name team/app"


def test_what_becomes_of_old_images(aws: Aws) -> None:
    aws(f"aws ecr create-repository {NAMED}")
    for number in range(3):
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "annotations": {"n": str(number)}}
        aws.write("index.json", index)
        aws(f"aws ecr put-image {NAMED} --image-manifest file://index.json --image-tag v{number}")
    selection = {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 2}
    aws.write("policy.json", {"rules": [{"rulePriority": 5, "selection": selection, "action": {"type": "expire"}}]})
    text = (aws.folder / "policy.json").read_text()

    # What would it do? Nothing has asked yet.
    nothing = said(aws.error(f"aws ecr get-lifecycle-policy-preview {NAMED}"))
    assert nothing[0] == "LifecyclePolicyPreviewNotFoundException"
    begun = aws(f"aws ecr start-lifecycle-policy-preview {NAMED} --lifecycle-policy-text file://policy.json")
    assert (begun["status"], begun["lifecyclePolicyText"]) == ("IN_PROGRESS", text)
    aws(f"aws ecr wait lifecycle-policy-preview-complete {NAMED}")
    preview = aws(f"aws ecr get-lifecycle-policy-preview {NAMED}")
    [one] = preview["previewResults"]
    assert (one["imageTags"], one["action"], one["appliedRulePriority"]) == (["v0"], {"type": "EXPIRE"}, 5)

    # It is put, read, and deleted.
    assert aws(f"aws ecr put-lifecycle-policy {NAMED} --lifecycle-policy-text file://policy.json")
    assert aws(f"aws ecr get-lifecycle-policy {NAMED}")["lifecyclePolicyText"] == text
    assert aws(f"aws ecr delete-lifecycle-policy {NAMED}")["lifecyclePolicyText"] == text
    none = said(aws.error(f"aws ecr get-lifecycle-policy {NAMED}"))
    assert none[0] == "LifecyclePolicyNotFoundException"

    # What is no policy is refused.
    aws.write("policy.json", {"rules": [{"rulePriority": 5, "selection": selection, "action": {"type": "keep"}}]})
    wrong = said(aws.error(f"aws ecr put-lifecycle-policy {NAMED} --lifecycle-policy-text file://policy.json"))
    assert wrong[0] == "InvalidParameterException"
    assert 'instance value (keep) not found in enum :(possible values: ["expire","transition"])' in wrong[1]
    assert json.loads(text)["rules"]
