"""docker and skopeo as whoever there is: the administrator, CI in a role, a node that only pulls, another account.

Each account's registry is a host of its own, under TLS. What is denied is read off docker's own screen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.accounts import open_account
from support.engines import Docker
from support.host_names import Names
from support.images import Layout, check_layout, tree
from support.named_accounts import ACCOUNT, OTHER, REGION, NamedServer, named_server
from support.policies import LOGIN, PULL, PULL_ONLY, PUSH, allow, policy
from support.programs import run

pytestmark = [pytest.mark.clients, pytest.mark.needs("docker", "dockerd", "unshare")]

Key = tuple[str, ...]
ROLE = f"arn:aws:iam::{ACCOUNT}:role/ci"
CI = f"arn:aws:sts::{ACCOUNT}:assumed-role/ci/run-7"
NODE = f"arn:aws:iam::{ACCOUNT}:user/node"


def repository(name: str, account: str = ACCOUNT) -> str:
    return f"arn:aws:ecr:{REGION}:{account}:repository/{name}"


def denied(who: str, action: str, name: str, why: str) -> str:
    where = f"User: {who} is not authorized to perform: {action} on resource: {repository(name)}"
    return f"{where} because no {why} allows the {action} action"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, names: Names) -> Iterator[NamedServer]:
    """With a role for CI, a pull-only node, and team/app:v1 and other/app:v1 in it, which are the same image."""
    data = tmp_path_factory.mktemp("principals") / "data"
    with named_server(data, "registry.example", names) as found:
        for user in ("runner", "node"):
            found.iam("CreateUser", UserName=user)
        found.iam("AttachUserPolicy", UserName="node", PolicyArn=PULL_ONLY)
        trust = policy(allow("sts:AssumeRole", Principal={"AWS": f"arn:aws:iam::{ACCOUNT}:user/runner"}))
        found.iam("CreateRole", RoleName="ci", AssumeRolePolicyDocument=trust)
        login = policy(allow(LOGIN, Resource="*"))
        found.iam("PutRolePolicy", RoleName="ci", PolicyName="login", PolicyDocument=login)
        push = policy(
            allow([*PUSH, "ecr:CreateRepository"], Resource=repository("team/*")),
            allow(PUSH, Resource=repository("shared/*")),
        )
        found.iam("PutRolePolicy", RoleName="ci", PolicyName="push", PolicyDocument=push)
        yield found


@pytest.fixture(scope="module")
def keys(registry: NamedServer) -> dict[str, Key]:
    """Of each principal, by a short name."""
    found: dict[str, Key] = {"admin": registry.server.credentials(), "other": open_account(registry.server, OTHER)}
    for user in ("runner", "node"):
        made = registry.iam("CreateAccessKey", UserName=user)["AccessKey"]
        found[user] = made["AccessKeyId"], made["SecretAccessKey"]
    found["ci"] = take_role(registry, found["runner"])
    return found


def take_role(registry: NamedServer, key: Key, **more: Any) -> Key:
    answer = registry.client("sts", key).assume_role(RoleArn=ROLE, RoleSessionName="run-7", **more)
    made = answer["Credentials"]
    return made["AccessKeyId"], made["SecretAccessKey"], made["SessionToken"]


@pytest.fixture
def docker_of(registry: NamedServer, names: Names, named_docker: Path, tmp_path: Path) -> Callable[..., Docker]:
    """docker, logged in with the key, at the default account's registry or at another's."""

    def log_in(key: Key, account: str = ACCOUNT) -> Docker:
        docker = Docker(named_docker, tmp_path / key[0], names.inside)
        host = registry.registry(account)
        done = docker("login", "--username", "AWS", "--password-stdin", host, stdin=registry.password(key))
        assert "Login Succeeded" in done.stdout
        return docker

    return log_in


@pytest.fixture(scope="module")
def image(registry: NamedServer, keys: dict[str, Key], names: Names, named_docker: Path, tmp_path_factory: Any) -> str:
    """The id of team/app:v1 and other/app:v1, pushed by the administrator; docker has them under no name any more."""
    docker = Docker(named_docker, tmp_path_factory.mktemp("admin"), names.inside)
    host = registry.registry()
    docker("login", "--username", "AWS", "--password-stdin", host, stdin=registry.password(keys["admin"]))
    docker("import", "-", f"{host}/team/app:v1", stdin=tree(70, 100_000))
    docker("tag", f"{host}/team/app:v1", f"{host}/other/app:v1")
    for name in ("team/app:v1", "other/app:v1"):
        docker("push", f"{host}/{name}")
    found = docker.image_id(f"{host}/team/app:v1")
    docker("rmi", f"{host}/team/app:v1", f"{host}/other/app:v1")
    return found


def test_ci_pushes_into_its_own_namespace_and_is_told_why_not_elsewhere(
    registry: NamedServer, keys: dict[str, Key], docker_of: Callable[..., Docker], image: str
) -> None:
    docker, host = docker_of(keys["ci"]), registry.registry()
    docker("import", "-", f"{host}/team/new:v1", stdin=tree(71, 50_000))
    docker("push", f"{host}/team/new:v1")
    docker("tag", f"{host}/team/new:v1", f"{host}/other/app:v2")
    why = "identity-based policy"
    refused = docker("push", f"{host}/other/app:v2", ok=False).stderr
    assert f"denied: {denied(CI, 'ecr:InitiateLayerUpload', 'other/app', why)}" in refused
    refused = docker("pull", f"{host}/other/app:v1", ok=False).stderr
    assert denied(CI, "ecr:BatchGetImage", "other/app", why) in refused
    docker("tag", f"{host}/team/new:v1", f"{host}/shared/new:v1")
    assert "does not exist in the registry with id" in docker("push", f"{host}/shared/new:v1", ok=False).stderr
    docker("rmi", f"{host}/team/new:v1", f"{host}/other/app:v2", f"{host}/shared/new:v1")


def test_a_node_pulls_everything_and_pushes_nothing(
    registry: NamedServer, keys: dict[str, Key], docker_of: Callable[..., Docker], image: str
) -> None:
    docker, host = docker_of(keys["node"]), registry.registry()
    for name in ("team/app:v1", "other/app:v1"):
        docker("pull", f"{host}/{name}")
        assert docker.image_id(f"{host}/{name}") == image
    docker("tag", f"{host}/team/app:v1", f"{host}/team/app:mine")
    refused = docker("push", f"{host}/team/app:mine", ok=False).stderr
    assert denied(NODE, "ecr:InitiateLayerUpload", "team/app", "identity-based policy") in refused
    docker("rmi", f"{host}/team/app:v1", f"{host}/other/app:v1", f"{host}/team/app:mine")


def test_a_session_narrowed_to_pulls_logs_docker_in_pulls_and_cannot_push(
    registry: NamedServer, keys: dict[str, Key], docker_of: Callable[..., Docker], image: str
) -> None:
    narrow = policy(allow([LOGIN, *PULL], Resource="*"))
    key = take_role(registry, keys["runner"], Policy=json.dumps(narrow))
    docker, host = docker_of(key), registry.registry()
    docker("pull", f"{host}/team/app:v1")
    assert docker.image_id(f"{host}/team/app:v1") == image
    docker("tag", f"{host}/team/app:v1", f"{host}/team/app:mine")
    refused = docker("push", f"{host}/team/app:mine", ok=False).stderr
    assert denied(CI, "ecr:PutImage", "team/app", "session policy") in refused  # the layers are there already
    docker_of(keys["ci"])("push", f"{host}/team/app:mine")  # the same role, not narrowed
    docker("rmi", f"{host}/team/app:v1", f"{host}/team/app:mine")


def test_another_account_has_a_registry_of_its_own_and_pulls_elsewhere_by_the_repositorys_policy(
    registry: NamedServer, keys: dict[str, Key], docker_of: Callable[..., Docker], image: str
) -> None:
    docker, host, mine = docker_of(keys["other"]), registry.registry(), registry.registry(OTHER)
    docker("login", "--username", "AWS", "--password-stdin", mine, stdin=registry.password(keys["other"]))
    docker("import", "-", f"{mine}/team/app:v1", stdin=tree(72, 50_000))
    docker("push", f"{mine}/team/app:v1")
    docker("rmi", f"{mine}/team/app:v1")
    docker("pull", f"{mine}/team/app:v1")
    assert docker.image_id(f"{mine}/team/app:v1") != image

    them = f"arn:aws:iam::{OTHER}:user/administrator"
    sentence = denied(them, "ecr:BatchGetImage", "team/app", "resource-based policy")
    assert sentence in docker("pull", f"{host}/team/app:v1", ok=False).stderr
    ecr = registry.client("ecr", keys["admin"])
    text = json.dumps(policy(allow(PULL, Principal={"AWS": OTHER})))
    ecr.set_repository_policy(repositoryName="team/app", policyText=text)
    docker("pull", f"{host}/team/app:v1")
    assert docker.image_id(f"{host}/team/app:v1") == image
    docker("tag", f"{host}/team/app:v1", f"{host}/team/app:theirs")
    refused = docker("push", f"{host}/team/app:theirs", ok=False).stderr
    assert denied(them, "ecr:PutImage", "team/app", "resource-based policy") in refused
    ecr.delete_repository_policy(repositoryName="team/app")
    assert sentence in docker("pull", f"{host}/team/app:v1", ok=False).stderr
    docker("rmi", f"{host}/team/app:v1", f"{host}/team/app:theirs", f"{mine}/team/app:v1")


def test_what_a_role_may_ends_with_its_policy_at_the_next_pull(
    registry: NamedServer, keys: dict[str, Key], docker_of: Callable[..., Docker], image: str
) -> None:
    """docker opens connections anew for each pull: both workers are asked."""
    docker, reference = docker_of(keys["ci"]), f"{registry.registry()}/team/app:v1"
    push = registry.iam("GetRolePolicy", RoleName="ci", PolicyName="push")["PolicyDocument"]
    sentence = denied(CI, "ecr:BatchGetImage", "team/app", "identity-based policy")
    for _ in range(3):
        docker("pull", reference)
        docker("rmi", reference)
        registry.iam("DeleteRolePolicy", RoleName="ci", PolicyName="push")
        try:
            for _ in range(2):
                assert sentence in docker("pull", reference, ok=False).stderr
        finally:
            registry.iam("PutRolePolicy", RoleName="ci", PolicyName="push", PolicyDocument=push)


@pytest.mark.needs("skopeo")
def test_skopeo_copies_what_it_may_read_also_between_accounts(
    registry: NamedServer, keys: dict[str, Key], names: Names, small_image: Layout, tmp_path: Path
) -> None:
    """The certificate is verified: skopeo is given the authority, and no leave to do without."""
    logins = tmp_path / "auth.json"

    def skopeo(*words: str | Path, ok: bool = True, stdin: str | None = None) -> str:
        extra = {"REGISTRY_AUTH_FILE": str(logins), "SSL_CERT_FILE": str(registry.ca)}
        done = run(*names.inside, "skopeo", "--insecure-policy", *words, extra=extra, ok=ok, stdin=stdin)
        return done.stderr

    def log_in(key: Key, *hosts: str) -> None:
        for host in hosts:
            skopeo("login", "-u", "AWS", "--password-stdin", host, stdin=registry.password(key))

    ours, theirs = registry.registry(), registry.registry(OTHER)
    log_in(keys["ci"], ours)
    skopeo("copy", "--preserve-digests", f"oci:{small_image.path}:v1", f"docker://{ours}/team/base:v1")
    elsewhere = skopeo("copy", f"oci:{small_image.path}:v1", f"docker://{ours}/other/app:v3", ok=False)
    assert "403 (Forbidden)" in elsewhere  # of a HEAD, which has no text
    log_in(keys["node"], ours)
    skopeo("copy", f"docker://{ours}/team/base:v1", f"oci:{tmp_path / 'node'}:v1")
    assert "403 (Forbidden)" in skopeo("list-tags", f"docker://{ours}/team/base", ok=False)
    log_in(keys["other"], ours, theirs)
    copy = ("copy", "--preserve-digests", f"docker://{ours}/team/base:v1", f"docker://{theirs}/base:v1")
    them = f"arn:aws:iam::{OTHER}:user/administrator"
    assert denied(them, "ecr:BatchGetImage", "team/base", "resource-based policy") in skopeo(*copy, ok=False)
    text = json.dumps(policy(allow(PULL, Principal={"AWS": them})))
    registry.client("ecr", keys["admin"]).set_repository_policy(repositoryName="team/base", policyText=text)
    skopeo(*copy)
    skopeo("copy", "--preserve-digests", f"docker://{theirs}/base:v1", f"oci:{tmp_path / 'back'}:v1")
    check_layout(tmp_path / "back", small_image)
