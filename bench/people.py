"""A small image in a server's repository, and users of ours whom its policies allow to pull it."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, replace
from typing import Any

import boto3
from layers import REPOSITORY
from load import Content, Line, expect, push_blob
from peers import Peer
from statements import twenty_statements

from support.server import password_at

KIND = "application/vnd.oci.image.manifest.v1+json"
PATH = f"/v2/{REPOSITORY}/manifests/v1"
_narrow: dict[str, tuple[str, str]] = {}  # by address of the server
LAYERS = 6  # what an image has; each of 1 KiB


@dataclass(frozen=True, slots=True)
class Image:
    """`size` is the manifest's, `layer` the digest and size of one of its layers."""

    size: int
    layer: tuple[str, int]


def put_image(peer: Peer) -> Image:
    """As `PATH`."""
    line, content = Line(peer.address, peer.headers), Content(1024)
    described = []
    for name in ("config", *["layer"] * LAYERS):
        made = content.fresh()
        push_blob(line, REPOSITORY, made, made.digest)
        kind = "config.v1+json" if name == "config" else "layer.v1.tar+gzip"
        described.append(
            {"mediaType": f"application/vnd.oci.image.{kind}", "digest": made.digest, "size": content.size}
        )
    manifest = {"schemaVersion": 2, "mediaType": KIND, "config": described[0], "layers": described[1:]}
    body = json.dumps(manifest).encode()
    expect(line.ask("PUT", PATH, body, f"Content-Type: {KIND}\r\n"), 201)
    line.close()
    return Image(len(body), (str(described[1]["digest"]), content.size))


def client(peer: Peer, service: str) -> Any:
    """boto3's, as the administrator."""
    key_id, secret = peer.as_server().credentials()
    asked = {"region_name": "us-east-1", "aws_access_key_id": key_id, "aws_secret_access_key": secret}
    return boto3.client(service, endpoint_url=f"http://{peer.address}", **asked)  # type: ignore[call-overload,unused-ignore]  # a service's name that is no literal


def new_user(iam: Any, name: str, policy_arns: list[str]) -> tuple[str, str]:
    """The access key of a new user with those policies attached."""
    iam.create_user(UserName=name)
    for arn in policy_arns:
        iam.attach_user_policy(UserName=name, PolicyArn=arn)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


def as_user(peer: Peer, iam: Any, name: str, policy_arns: list[str]) -> Peer:
    """The same server as a new user with those policies attached sees it."""
    return with_key(peer, *new_user(iam, name, policy_arns))


def with_key(peer: Peer, access_key_id: str, secret: str) -> Peer:
    """The same server as the user with that key sees it."""
    password = password_at(f"http://{peer.address}", access_key_id, secret)
    basic = base64.b64encode(f"AWS:{password}".encode()).decode()
    return replace(peer, headers=f"Authorization: Basic {basic}\r\n")


def account_of(iam: Any) -> str:
    found: str = iam.get_user()["User"]["Arn"].split(":")[4]
    return found


def twenty_statement_policies(iam: Any) -> list[str]:
    """The ARNs of five policies."""
    return [
        iam.create_policy(PolicyName=f"policy-{number}", PolicyDocument=text)["Policy"]["Arn"]
        for number, text in enumerate(twenty_statements(account_of(iam)))
    ]


def narrow_user(peer: Peer) -> Peer:
    """The server as a new user sees it whom twenty statements allow manifests, and the repository's policy layers."""
    return with_key(peer, *narrow_credentials(peer))


def narrow_credentials(peer: Peer) -> tuple[str, str]:
    """The access key of such a user; of the same one, if there is one."""
    if peer.address in _narrow:
        return _narrow[peer.address]
    iam, name = client(peer, "iam"), "twenty-statements"
    found = _narrow[peer.address] = new_user(iam, name, twenty_statement_policies(iam))
    layers = {
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{account_of(iam)}:user/{name}"},
        "Action": ["ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer"],
    }
    text = json.dumps({"Version": "2012-10-17", "Statement": [layers]})
    client(peer, "ecr").set_repository_policy(repositoryName=REPOSITORY, policyText=text)
    return found
