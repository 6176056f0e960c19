"""Publishing a container asset as cdk-assets does: is it there, log in, push, and the second time nothing at all.

DescribeRepositories for the address, DescribeImages by the asset's tag, whose ImageNotFoundException alone means that
it must be pushed (any answer means that it is there), GetAuthorizationToken, `docker login` at its endpoint, tag, push.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from support.engines import Docker
from support.images import MIB, tree
from support.policies import allow, policy
from support.resolver import client
from support.server import Server

pytestmark = [pytest.mark.clients, pytest.mark.needs("docker", "dockerd")]

LOCAL = "cdkasset-5f1c"


def address_of(ecr: Any, repository: str) -> str | None:
    """None where there is no such repository: the account is not bootstrapped."""
    try:
        [found] = ecr.describe_repositories(repositoryNames=[repository])["repositories"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "RepositoryNotFoundException":
            raise
        return None
    return str(found["repositoryUri"])


def is_there(ecr: Any, repository: str, tag: str) -> bool:
    try:
        ecr.describe_images(repositoryName=repository, imageIds=[{"imageTag": tag}])
    except ClientError as error:
        if error.response["Error"]["Code"] != "ImageNotFoundException":
            raise
        return False
    return True


def publish(ecr: Any, docker: Docker, repository: str, tag: str) -> bool:
    """Whether it had to be pushed."""
    address = address_of(ecr, repository)
    assert address is not None
    if is_there(ecr, repository, tag):
        return False
    [data] = ecr.get_authorization_token()["authorizationData"]
    user, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")
    docker("login", "--username", user, "--password-stdin", data["proxyEndpoint"], stdin=password)
    docker("tag", LOCAL, f"{address}:{tag}")
    docker("push", f"{address}:{tag}")
    return True


def test_an_asset_is_pushed_once_and_found_from_then_on(server: Server, docker: Docker, repository: str) -> None:
    """The repository is as the bootstrap makes it: tags that stay, and a policy that lets a service pull."""
    ecr = client(server)
    assert address_of(ecr, repository) is None
    ecr.create_repository(repositoryName=repository, imageTagMutability="IMMUTABLE")
    pull = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    text = policy(allow(pull, Principal={"Service": "lambda.amazonaws.com"}))
    ecr.set_repository_policy(repositoryName=repository, policyText=json.dumps(text))
    tag = "5f1c" * 16
    docker("import", "-", LOCAL, stdin=tree(71, MIB))
    assert publish(ecr, docker, repository, tag)
    assert not publish(ecr, docker, repository, tag)
    [detail] = ecr.describe_images(repositoryName=repository, imageIds=[{"imageTag": tag}])["imageDetails"]
    assert detail["imageTags"] == [tag]

    # Another asset under its name does not take its place.
    docker("import", "-", LOCAL, stdin=tree(72, MIB))
    docker("tag", LOCAL, f"{server.address}/{repository}:{tag}")
    assert "the tag is immutable" in docker("push", f"{server.address}/{repository}:{tag}", ok=False).stderr
    [after] = ecr.describe_images(repositoryName=repository, imageIds=[{"imageTag": tag}])["imageDetails"]
    assert after["imageDigest"] == detail["imageDigest"]
    docker("rmi", LOCAL)
