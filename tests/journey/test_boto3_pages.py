"""boto3's paginators, every one of the model that is served, and loops by nextToken where the model has none.

Each list is walked in pages that hold less than half of it, and stopped in the midst and gone on with from its token.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

import boto3
import pytest
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import ClientError

from proxy.ecr.routes import ROUTES
from support.accounts import open_account
from support.registry import OCI_INDEX, OCI_MANIFEST
from support.server import Server

REPOSITORY = "team/app"
SUBJECT = {"mediaType": OCI_MANIFEST, "digest": f"sha256:{'5' * 64}", "size": 5}
NAMES = [REPOSITORY, *(f"team/{number}" for number in range(6))]
PAGED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "DescribeRepositories": ("repositories", {}),
    "ListImages": ("imageIds", {"repositoryName": REPOSITORY}),
    "DescribeImages": ("imageDetails", {"repositoryName": REPOSITORY}),
    "DescribeRepositoryCreationTemplates": ("repositoryCreationTemplates", {}),
    "DescribePullThroughCacheRules": ("pullThroughCacheRules", {}),
    "GetLifecyclePolicyPreview": ("previewResults", {"repositoryName": NAMES[1]}),
}
LOOPED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ListImageReferrers": (
        "referrers",
        {"repositoryName": REPOSITORY, "subjectId": {"imageDigest": SUBJECT["digest"]}},
    ),
    "ListPullTimeUpdateExclusions": ("pullTimeUpdateExclusions", {}),
}
KEEP_ONE = json.dumps(
    {
        "rules": [
            {
                "rulePriority": 1,
                "selection": {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 1},
                "action": {"type": "expire"},
            }
        ]
    }
)
COUNT = 7  # of each
SIZE = 3
INVALID = ("InvalidParameterException", "ValidationException")


@pytest.fixture(scope="module")
def ecr(server: Server) -> Any:
    """The client of an account with seven of everything, which no test changes."""
    account = str(random.SystemRandom().randrange(10**11, 10**12))
    access_key_id, secret = open_account(server, account)
    made = boto3.session.Session().client(
        "ecr",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}),
    )
    for name in NAMES:
        made.create_repository(repositoryName=name)
    for number in range(COUNT):
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "subject": SUBJECT}
        text = json.dumps({**index, "artifactType": f"application/kind-{number}"})
        made.put_image(repositoryName=REPOSITORY, imageManifest=text, imageTag=f"v{number}")
        made.create_repository_creation_template(prefix=f"team/{number}", appliedFor=["CREATE_ON_PUSH"])
        made.create_pull_through_cache_rule(ecrRepositoryPrefix=f"quay{number}", upstreamRegistryUrl="quay.io")
        made.register_pull_time_update_exclusion(principalArn=f"arn:aws:iam::{account}:role/scanner-{number}")
    for number in range(COUNT + 1):  # of which the policy keeps one
        text = json.dumps({**index, "annotations": {"number": str(number)}})
        made.put_image(repositoryName=NAMES[1], imageManifest=text, imageTag=f"v{number}")
    made.start_lifecycle_policy_preview(repositoryName=NAMES[1], lifecyclePolicyText=KEEP_ONE)
    made.get_waiter("lifecycle_policy_preview_complete").wait(repositoryName=NAMES[1], WaiterConfig={"Delay": 1})
    return made


def key(found: Any) -> str:
    """What tells one of a list from another."""
    members = ("repositoryName", "imageTag", "digest", "prefix", "ecrRepositoryPrefix")
    if not isinstance(found, dict) or "imageDigest" in found:
        return str(found if isinstance(found, str) else found["imageDigest"])
    return next(str(found[member]) for member in members if member in found)


def refused(call: Callable[..., Any], **parameters: Any) -> str:
    """The name of the error."""
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    name: str = caught.value.response["Error"]["Code"]
    return name


def test_the_paginators_of_the_model_that_are_served_are_all_here(ecr: Any) -> None:
    model = ecr.meta.service_model  # the installed one, which lacks what `awsmodel/overlay` adds
    served = ROUTES.keys() & set(model.operation_names)
    assert {name for name in served if ecr.can_paginate(xform_name(name))} == PAGED.keys()
    tokens = {name for name in served if "nextToken" in model.operation_model(name).output_shape.members}
    assert tokens == PAGED.keys() | LOOPED.keys()


def test_every_paginator_walks_its_list_once_and_goes_on_from_a_token(ecr: Any) -> None:
    for name, (member, about) in PAGED.items():
        paginator = ecr.get_paginator(xform_name(name))
        pages = list(paginator.paginate(**about, PaginationConfig={"PageSize": SIZE}))
        assert [len(page[member]) for page in pages] == [3, 3, 1], name
        whole = [key(each) for page in pages for each in page[member]]
        assert len(set(whole)) == COUNT, name
        [one] = paginator.paginate(**about)
        assert [key(each) for each in one[member]] == whole, name

        # Stopped within a page; what was read of it already is left out as it goes on.
        first = paginator.paginate(**about, PaginationConfig={"MaxItems": 4, "PageSize": SIZE}).build_full_result()
        stopped = {"StartingToken": first["NextToken"], "PageSize": SIZE}
        rest = paginator.paginate(**about, PaginationConfig=stopped).build_full_result()
        assert [key(each) for each in (*first[member], *rest[member])] == whole, name
        assert "NextToken" not in rest, name


def test_lists_without_a_paginator_are_walked_by_their_tokens(ecr: Any) -> None:
    for name, (member, about) in LOOPED.items():
        call: Callable[..., dict[str, Any]] = getattr(ecr, xform_name(name))
        pages = [call(**about, maxResults=SIZE)]
        while "nextToken" in pages[-1]:
            pages.append(call(**about, maxResults=SIZE, nextToken=pages[-1]["nextToken"]))
        assert [len(page[member]) for page in pages] == [3, 3, 1], name
        whole = [key(each) for page in pages for each in page[member]]
        assert len(set(whole)) == COUNT, name
        assert [key(each) for each in call(**about)[member]] == whole, name


def test_a_token_of_one_list_or_of_nobody_is_refused_by_the_others(ecr: Any) -> None:
    token = ecr.describe_repositories(maxResults=1)["nextToken"]
    for name, (_, about) in {**PAGED, **LOOPED}.items():
        for wrong in ("none", *([token] if name != "DescribeRepositories" else [])):
            assert refused(getattr(ecr, xform_name(name)), **about, nextToken=wrong) in INVALID, name


def test_a_token_beside_what_should_be_shown_is_refused(ecr: Any) -> None:
    for name, chosen in (
        ("DescribeRepositories", {"repositoryNames": [REPOSITORY]}),
        ("DescribeImages", {"imageIds": [{"imageTag": "v1"}]}),
        ("DescribeRepositoryCreationTemplates", {"prefixes": ["team/1"]}),
    ):
        call, about = getattr(ecr, xform_name(name)), PAGED[name][1]
        token = call(**about, maxResults=1)["nextToken"]
        assert refused(call, **about, **chosen, nextToken=token) in INVALID, name
