"""A permission given or taken counts for the very next request, on every worker and every node (invariant 5).

Each kind of policy there is gives a user the right to pull and takes it away again, asked for at a place drawn at
random; after each answer all places are asked for a manifest by that user.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from botocore.config import Config

from support import cluster as clusters
from support.cluster import Cluster
from support.connections import Connection, connection_to_each_worker
from support.policies import LOGIN, PULL, PULL_ONLY, allow, policy
from support.programs import run
from support.registry import OCI_MANIFEST, image_manifest
from support.server import Server, password_at

ACCOUNT, REGION = "123456789012", "us-east-1"
CONFIG = b'{"architecture": "amd64", "os": "linux"}'
KIND = {"Content-Type": OCI_MANIFEST}
ROUNDS = 2

_session = boto3.session.Session()
Call = tuple[str, str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Places:
    """Where one registry answers. `lines` opens one to each of its workers for a user with this password."""

    servers: Sequence[Server]
    key: tuple[str, str]
    lines: Callable[[str], contextlib.AbstractContextManager[Sequence[Connection]]]
    settings: Mapping[str, str]

    def revoke(self, principal: str) -> None:
        """By the command, run as on the first node."""
        where = self.servers[0].data
        run(sys.executable, "-m", "proxy", "revoke", principal, "--data", where, extra=dict(self.settings))

    def call(self, where: Server, call: Call) -> Any:
        """As the administrator, by boto3; a policy that is not text yet becomes it."""
        service, operation, parameters = call
        client = _session.client(
            service,
            endpoint_url=where.url,
            region_name=REGION,
            aws_access_key_id=self.key[0],
            aws_secret_access_key=self.key[1],
            config=Config(retries={"total_max_attempts": 1}),
        )
        given = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in parameters.items()}
        return client._make_api_call(operation, given)


WHERE = pytest.mark.parametrize(
    "where",
    [
        "on_one_machine",
        pytest.param("on_three_nodes", marks=[pytest.mark.clients, pytest.mark.needs("weed", "nginx", "postgres")]),
    ],
)


@pytest.fixture(scope="module")
def on_one_machine(start_server: Callable[..., Server]) -> Places:
    """Two workers, which connections fall to as the kernel likes."""
    server = start_server(workers=2)
    return Places([server], server.credentials(), lambda password: connection_to_each_worker(server, password, 2), {})


@pytest.fixture(scope="module")
def on_three_nodes(cluster: Cluster) -> Places:
    @contextlib.contextmanager
    def lines(password: str) -> Iterator[list[Connection]]:
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(contextlib.closing(Connection(node, password))) for node in cluster.nodes]

    key = (clusters.ACCESS_KEY_ID, clusters.SECRET_ACCESS_KEY)
    return Places(cluster.nodes, key, lines, cluster.node_settings(cluster.nodes[0].data))


def grants(user: str, repository: str) -> list[tuple[str, Call, Call]]:
    """Each way to let a user pull from a repository: its name, what gives, what takes."""
    arn = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/{repository}"
    pull, named = policy(allow(PULL, Resource=arn)), {"UserName": user, "PolicyName": "pull"}
    group = {"GroupName": f"{user}-group", "UserName": user}
    attached = {"UserName": user, "PolicyArn": PULL_ONLY}
    own = f"arn:aws:iam::{ACCOUNT}:policy/{user}-own"
    who = {"AWS": f"arn:aws:iam::{ACCOUNT}:user/{user}"}
    here = {"repositoryName": repository}
    tagged = {"resourceArn": arn, "tags": [{"Key": "reader", "Value": user}]}
    untagged = {"resourceArn": arn, "tagKeys": ["reader"]}
    return [
        ("inline", ("iam", "PutUserPolicy", {**named, "PolicyDocument": pull}), ("iam", "DeleteUserPolicy", named)),
        ("attached", ("iam", "AttachUserPolicy", attached), ("iam", "DetachUserPolicy", attached)),
        ("group", ("iam", "AddUserToGroup", group), ("iam", "RemoveUserFromGroup", group)),
        (
            "version",
            ("iam", "SetDefaultPolicyVersion", {"PolicyArn": own, "VersionId": "v2"}),
            ("iam", "SetDefaultPolicyVersion", {"PolicyArn": own, "VersionId": "v1"}),
        ),
        (
            "repository",
            ("ecr", "SetRepositoryPolicy", {**here, "policyText": policy(allow(PULL, Principal=who))}),
            ("ecr", "DeleteRepositoryPolicy", here),
        ),
        (
            "registry",
            ("ecr", "PutRegistryPolicy", {"policyText": policy(allow(PULL, Principal=who, Resource=arn))}),
            ("ecr", "DeleteRegistryPolicy", {}),
        ),
        ("tag", ("ecr", "TagResource", tagged), ("ecr", "UntagResource", untagged)),
    ]


@WHERE
def test_each_kind_of_permission_counts_at_once_everywhere(where: str, request: pytest.FixtureRequest) -> None:
    places: Places = request.getfixturevalue(where)
    draw = random.Random(5)
    name = uuid.uuid4().hex[:8]
    user, repository = f"ann-{name}", f"fresh/{name}"
    password = _prepare(places, user, repository)
    path = f"/v2/{repository}/manifests/v1"

    def everywhere(lines: Sequence[Connection], status: int, after: str) -> None:
        for line in draw.sample(lines, len(lines)):
            answer = line.ask("GET", path, headers={"Accept": OCI_MANIFEST})
            assert answer.status == status, f"{answer.status} after {after}: {answer.body[:400]!r}"

    with places.lines(password) as lines:
        everywhere(lines, 403, "nothing")
        for _ in range(ROUNDS):
            for what, give, take in grants(user, repository):
                places.call(draw.choice(places.servers), give)
                everywhere(lines, 200, f"giving: {what}")
                places.call(draw.choice(places.servers), take)
                everywhere(lines, 403, f"taking: {what}")
        _delete(places, user)
        everywhere(lines, 401, "deleting the user")


@WHERE
def test_a_password_ends_with_its_key_and_by_a_revocation_at_once_everywhere(
    where: str, request: pytest.FixtureRequest
) -> None:
    """Made inactive, or deleted; or all that its user holds revoked by the command, of which a key that is made active
    again brings nothing back that was issued before."""
    places: Places = request.getfixturevalue(where)
    draw = random.Random(6)
    name = uuid.uuid4().hex[:8]
    user, repository = f"bob-{name}", f"fresh/{name}"
    password = _prepare(places, user, repository)
    may_pull = policy(allow(PULL, Resource="*"))
    places.call(
        places.servers[0],
        ("iam", "PutUserPolicy", {"UserName": user, "PolicyName": "pull", "PolicyDocument": may_pull}),
    )
    [key] = places.call(places.servers[0], ("iam", "ListAccessKeys", {"UserName": user}))["AccessKeyMetadata"]
    mine = {"UserName": user, "AccessKeyId": key["AccessKeyId"]}
    path = f"/v2/{repository}/manifests/v1"

    def everywhere(lines: Sequence[Connection], status: int, after: str) -> None:
        for line in draw.sample(lines, len(lines)):
            answer = line.ask("GET", path, headers={"Accept": OCI_MANIFEST})
            assert answer.status == status, f"{answer.status} after {after}: {answer.body[:400]!r}"

    def changed(operation: str, **parameters: str) -> None:
        places.call(draw.choice(places.servers), ("iam", operation, {**mine, **parameters}))

    with places.lines(password) as lines:
        everywhere(lines, 200, "nothing")
        changed("UpdateAccessKey", Status="Inactive")
        everywhere(lines, 401, "making its key inactive")
        changed("UpdateAccessKey", Status="Active")
        everywhere(lines, 200, "making its key active")
        places.revoke(f"arn:aws:iam::{ACCOUNT}:user/{user}")
        everywhere(lines, 401, "revoking all that its user holds")
        changed("UpdateAccessKey", Status="Active")
        everywhere(lines, 401, "making its key active after a revocation")
        changed("DeleteAccessKey")
        everywhere(lines, 401, "deleting its key")


def _prepare(places: Places, user: str, repository: str) -> str:
    """A user who may log in, and pull what is tagged with its name; a managed policy whose second version would let it
    pull; a group that may. Returns the user's password."""
    first = places.servers[0]
    admin = password_at(first.url, *places.key)
    line = Connection(first, admin)
    line.push_blob(repository, CONFIG)
    line.ask("PUT", f"/v2/{repository}/manifests/v1", image_manifest(CONFIG, []), KIND).expect(201)
    line.close()
    mine = {"StringEquals": {"aws:ResourceTag/reader": "${aws:username}"}}
    document = policy(allow(LOGIN, Resource="*"), allow(PULL, Resource="*", Condition=mine))
    own = f"arn:aws:iam::{ACCOUNT}:policy/{user}-own"
    pull = policy(allow(PULL, Resource="*"))
    for operation, parameters in (
        ("CreateUser", {"UserName": user}),
        ("PutUserPolicy", {"UserName": user, "PolicyName": "login", "PolicyDocument": document}),
        ("CreateGroup", {"GroupName": f"{user}-group"}),
        ("PutGroupPolicy", {"GroupName": f"{user}-group", "PolicyName": "pull", "PolicyDocument": pull}),
        ("CreatePolicy", {"PolicyName": f"{user}-own", "PolicyDocument": policy(allow(LOGIN, Resource="*"))}),
        ("CreatePolicyVersion", {"PolicyArn": own, "PolicyDocument": pull}),
        ("AttachUserPolicy", {"UserName": user, "PolicyArn": own}),
    ):
        places.call(first, ("iam", operation, parameters))
    key = places.call(first, ("iam", "CreateAccessKey", {"UserName": user}))["AccessKey"]
    return password_at(first.url, key["AccessKeyId"], key["SecretAccessKey"])


def _delete(places: Places, user: str) -> None:
    first = places.servers[0]
    [key] = places.call(first, ("iam", "ListAccessKeys", {"UserName": user}))["AccessKeyMetadata"]
    own = f"arn:aws:iam::{ACCOUNT}:policy/{user}-own"
    for operation, parameters in (
        ("DeleteAccessKey", {"UserName": user, "AccessKeyId": key["AccessKeyId"]}),
        ("DetachUserPolicy", {"UserName": user, "PolicyArn": own}),
        ("DeleteUserPolicy", {"UserName": user, "PolicyName": "login"}),
        ("DeleteUser", {"UserName": user}),
    ):
        places.call(first, ("iam", operation, parameters))
