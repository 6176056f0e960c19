"""`suffix = "amazonaws.com"` behind a DNS and an authority of one's own: AWS's names, and a tool that knows no others.

docker-credential-ecr-login takes only hosts of AWS's form, and only a `proxyEndpoint` of that form.
docker asks it for each registry by itself, so that nobody logs in.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.accounts import open_account
from support.engines import Docker
from support.host_names import Names, own_address
from support.images import tree
from support.named_accounts import ACCOUNT, OTHER, REGION, NamedServer, named_server
from support.programs import TOOLS, find, run

HELPER = "docker-credential-ecr-login"
pytestmark = [pytest.mark.clients, pytest.mark.needs("docker", "dockerd", "unshare", HELPER)]

Key = tuple[str, ...]
# The rule of amazon-ecr-credential-helper v0.12.0 for servers and for `proxyEndpoint`, as far as it is about us.
ENDPOINT = re.compile(r"https://[0-9]{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com(:[0-9]+)?")


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory, names: Names) -> Iterator[NamedServer]:
    with named_server(tmp_path_factory.mktemp("hosts") / "data", "amazonaws.com", names) as found:
        yield found


@pytest.fixture(scope="module")
def other(aws: NamedServer) -> Key:
    return open_account(aws.server, OTHER)


@pytest.fixture
def environment(aws: NamedServer, tmp_path: Path) -> Callable[[Key], dict[str, str]]:
    """What the helper is told by its environment: a key, where the API is, and who vouches for it."""

    def of(key: Key) -> dict[str, str]:
        tools = [str(TOOLS), os.path.dirname(find(HELPER) or ""), os.environ["PATH"]]
        return {
            "PATH": os.pathsep.join(tools),
            "HOME": str(tmp_path),
            "AWS_ACCESS_KEY_ID": key[0],
            "AWS_SECRET_ACCESS_KEY": key[1],
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL_ECR": f"https://api.ecr.{REGION}.amazonaws.com:{aws.server.port}",
            "AWS_CA_BUNDLE": str(aws.ca),
            "AWS_ECR_DISABLE_CACHE": "true",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    return of


@pytest.fixture
def docker_of(
    aws: NamedServer, names: Names, named_docker: Path, tmp_path: Path, environment: Callable[[Key], dict[str, str]]
) -> Callable[[Key], Docker]:
    """docker that asks the helper, and has no login."""

    def configured(key: Key) -> Docker:
        folder = tmp_path / key[0]
        folder.mkdir()
        helpers = {aws.registry(account): "ecr-login" for account in (ACCOUNT, OTHER)}
        (folder / "config.json").write_text(json.dumps({"credHelpers": helpers}))
        return Docker(named_docker, folder, names.inside, environment(key))

    return configured


def test_docker_pushes_and_pulls_without_a_login(aws: NamedServer, docker_of: Callable[[Key], Docker]) -> None:
    docker, reference = docker_of(aws.server.credentials()), f"{aws.registry()}/team/app:v1"
    docker("import", "-", reference, stdin=tree(80, 100_000))
    pushed = docker.image_id(reference)
    docker("push", reference)
    docker("rmi", reference)
    docker("pull", reference)
    assert docker.image_id(reference) == pushed
    docker("rmi", reference)
    assert "auths" not in json.loads((docker.config / "config.json").read_text())


def test_each_account_is_a_host_and_the_helper_gets_a_login_for_each(
    aws: NamedServer, other: Key, docker_of: Callable[[Key], Docker]
) -> None:
    docker, mine = docker_of(other), f"{aws.registry(OTHER)}/app:v1"
    docker("import", "-", mine, stdin=tree(81, 100_000))
    docker("push", mine)
    aws.client("ecr", aws.server.credentials()).create_repository(repositoryName="closed")
    docker("tag", mine, f"{aws.registry()}/closed:v1")
    refused = docker("push", f"{aws.registry()}/closed:v1", ok=False).stderr
    assert f"User: arn:aws:iam::{OTHER}:user/administrator is not authorized to perform: ecr:" in refused
    assert f"on resource: arn:aws:ecr:{REGION}:{ACCOUNT}:repository/closed because no resource-based" in refused
    docker("rmi", mine, f"{aws.registry()}/closed:v1")


def test_the_helper_takes_the_endpoint_that_it_was_told(
    aws: NamedServer, names: Names, environment: Callable[[Key], dict[str, str]]
) -> None:
    asked = f"https://{aws.registry()}"
    told = run(*names.inside, HELPER, "get", stdin=asked, extra=environment(aws.server.credentials())).stdout
    found = json.loads(told)
    assert (found["ServerURL"], found["Username"]) == (asked, "AWS")
    assert len(found["Secret"]) > 100
    wrong = environment((aws.server.credentials()[0], "wrong"))
    assert (
        run(*names.inside, HELPER, "get", stdin=asked, extra=wrong, ok=False).stdout
        == "credentials not found in native keychain\n"
    )


def test_every_proxy_endpoint_has_the_form_that_the_helper_takes(aws: NamedServer, other: Key) -> None:
    for key, account in ((aws.server.credentials(), ACCOUNT), (other, OTHER)):
        ecr = aws.client("ecr", key)
        [own] = ecr.get_authorization_token()["authorizationData"]
        assert own["proxyEndpoint"] == f"https://{aws.registry(account)}"
        both = ecr.get_authorization_token(registryIds=[ACCOUNT, OTHER])["authorizationData"]
        assert [each["proxyEndpoint"] for each in both] == [
            f"https://{aws.registry(each)}" for each in (ACCOUNT, OTHER)
        ]
        assert all(ENDPOINT.fullmatch(each["proxyEndpoint"]) for each in both)


def test_docker_holds_the_certificate_to_the_authority_it_was_given(
    aws: NamedServer, names: Names, docker_of: Callable[[Key], Docker]
) -> None:
    """For an address that is not loopback, where docker would not look."""
    if own_address().startswith("127."):
        pytest.skip("needs an address that is not loopback")
    docker, place = docker_of(aws.server.credentials()), names.folder / "docker" / "certs.d" / aws.registry() / "ca.crt"
    authority = place.read_bytes()
    place.unlink()
    try:
        refused = docker("pull", f"{aws.registry()}/team/none:v1", ok=False).stderr
    finally:
        place.write_bytes(authority)
    assert "certificate signed by unknown authority" in refused
    assert "certificate" not in docker("pull", f"{aws.registry()}/team/none:v1", ok=False).stderr
