"""Two real installations, each the registry of a region, that replicate to each other's user `sender`.

`Installation.start` begins one; `peer_with` writes its `[[peers]]` and starts it anew. Each has the default account and
its administrator. The address of a peer may be that of a proxy between them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from support.programs import run
from support.registry import Registry, digest_of
from support.server import Server, free_port, password_at

ACCOUNT = "123456789012"
RIGHTS = ("ecr:GetAuthorizationToken", "ecr:ReplicateImage", "ecr:CreateRepository")
SENDER = f"arn:aws:iam::{ACCOUNT}:user/sender"

Key = tuple[str, str]


@dataclass
class Installation:
    """`sender` is the key of its user who may replicate to it."""

    region: str
    folder: Path
    workers: int
    port: int
    server: Server
    sender: Key = ("", "")
    peers: list[Mapping[str, Any]] = field(default_factory=list)

    @classmethod
    def start(cls, folder: Path, region: str, *, workers: int = 1) -> Installation:
        port = free_port()
        found = cls(region, folder, workers, port, _start(folder, region, workers, port))
        try:
            found.sender = found.make_sender()
        except BaseException:
            found.stop()
            raise
        return found

    @property
    def url(self) -> str:
        return self.server.url

    def client(self, service: str = "ecr", key: Key | None = None) -> Any:
        key = key or self.server.credentials()
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=self.region,
            aws_access_key_id=key[0],
            aws_secret_access_key=key[1],
            config=Config(retries={"total_max_attempts": 1}),
        )

    def make_sender(self, *actions: str) -> Key:
        """A user with these rights and no others."""
        iam = self.client("iam")
        allow = {"Effect": "Allow", "Action": list(actions or RIGHTS), "Resource": "*"}
        iam.create_user(UserName="sender")
        iam.put_user_policy(
            UserName="sender",
            PolicyName="replicate",
            PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [allow]}),
        )
        key = iam.create_access_key(UserName="sender")["AccessKey"]
        return key["AccessKeyId"], key["SecretAccessKey"]

    def peer_with(self, *others: Installation, url: str = "", **more: Any) -> None:
        """Started again, with these peers. `url` is where the one is reached."""
        self.peers = [
            {
                "region": other.region,
                "url": url or other.url,
                "access_key_id": other.sender[0],
                "secret_access_key": other.sender[1],
                **more,
            }
            for other in others
        ]
        self.restart()

    def stop(self) -> None:
        """At the end of a test; a second time it does nothing."""
        if self.server.daemon.process.poll() is None:
            assert self.server.stop() == 0

    def restart(self) -> None:
        assert self.server.stop() == 0
        self.start_again()

    def start_again(self) -> None:
        self.server = _start(self.folder, self.region, self.workers, self.port, self.peers)

    def replicate_to(self, *others: Installation, deletes: bool = False, registry: str = ACCOUNT) -> None:
        rule: dict[str, Any] = {
            "destinations": [{"region": other.region, "registryId": registry} for other in others],
            **({"deleteReplication": {"enabled": True}} if deletes else {}),
        }
        put_rules(self, [rule])

    def password(self, key: Key | None = None) -> str:
        return password_at(self.url, *(key or self.server.credentials()), self.region)

    async def registry(self, key: Key | None = None) -> Registry:
        return Registry(self.url, await asyncio.to_thread(self.password, key))

    async def push(self, repository: str, tag: str, *layers: bytes, note: str = "") -> str:
        async with await self.registry() as registry:
            return digest_of(await registry.push_image(repository, tag, list(layers), note))

    async def pull(self, repository: str, reference: str) -> str | None:
        """The digest of an image whose every byte is right; None where it is not there."""
        async with await self.registry() as registry:
            if (await registry.manifest(repository, reference)).status == 404:
                return None
            return digest_of((await registry.pull_image(repository, reference))[0])

    async def status(self, repository: str, **image_id: str) -> dict[str, Any]:
        """The one status, once it is no longer in progress."""
        ecr = self.client()
        async with asyncio.timeout(60):
            while True:
                found = await asyncio.to_thread(
                    lambda: ecr.describe_image_replication_status(repositoryName=repository, imageId=image_id)
                )
                [status] = found["replicationStatuses"]
                if status["status"] != "IN_PROGRESS":
                    return dict(status)
                await asyncio.sleep(0.1)

    def jobs(self) -> list[str]:
        """Lines of `wharfage jobs list` about replication."""
        said = run(sys.executable, "-m", "proxy", "jobs", "list", "--data", self.server.data).stdout
        return [line for line in said.splitlines() if "replication" in line]

    async def caught_up(self, seconds: float = 60) -> None:
        """Once nothing waits to be replicated from here."""
        async with asyncio.timeout(seconds):
            while await asyncio.to_thread(self.waiting):  # noqa: ASYNC110  # rows tell nobody
                await asyncio.sleep(0.1)

    def waiting(self) -> int:
        """How many jobs of replication the rows have."""
        with contextlib.closing(sqlite3.connect(self.server.data / "metadata.db")) as rows:
            found: int = rows.execute("SELECT count(*) FROM jobs WHERE kind = 'replication' AND state = 0").fetchone()[
                0
            ]
        return found

    def backlog(self) -> dict[str, int]:
        """As `wharfage replication status` counts it, by region."""
        command = [sys.executable, "-m", "proxy", "replication", "status", "--data", str(self.server.data)]
        file = self.folder / "wharfage.toml"
        said = run(*command, *(["--config", str(file)] if self.peers else [])).stdout
        lines = [line.split("\t") for line in said.splitlines() if "\twaiting " in line]
        return {line[0]: int(line[1].removeprefix("waiting ")) for line in lines}


def put_rules(installation: Installation, rules: list[dict[str, Any]]) -> None:
    """PutReplicationConfiguration, signed by hand: the installed boto3 does not know `deleteReplication`."""
    body = json.dumps({"replicationConfiguration": {"rules": rules}}).encode()
    target = "AmazonEC2ContainerRegistry_V20150921.PutReplicationConfiguration"
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": target}
    request = AWSRequest(method="POST", url=f"{installation.url}/", data=body, headers=headers)
    SigV4Auth(Credentials(*installation.server.credentials()), "ecr", installation.region).add_auth(request)
    sent = urllib.request.Request(request.url, body, dict(request.headers.items()))  # noqa: S310  # a server of ours
    with urllib.request.urlopen(sent) as answer:  # noqa: S310
        assert answer.status == 200


def _start(folder: Path, region: str, workers: int, port: int, peers: list[Mapping[str, Any]] | None = None) -> Server:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "wharfage.toml"
    file.write_text(_toml(region, peers or []))
    return Server.start(folder / "data", workers=workers, port=port, flags=["--config", str(file)])


def _toml(region: str, peers: list[Mapping[str, Any]]) -> str:
    lines = ["[registry]", f'region = "{region}"', "[replication]", f'senders = ["{SENDER}"]']
    for peer in peers:
        lines.append("[[peers]]")
        for name, value in peer.items():
            if isinstance(value, dict):
                text = "{" + ", ".join(f"{json.dumps(key)} = {json.dumps(each)}" for key, each in value.items()) + "}"
            else:
                text = json.dumps(value)
            lines.append(f"{name} = {text}")
    return "\n".join(lines) + "\n"
