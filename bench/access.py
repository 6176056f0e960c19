"""What policies cost a pull: manifests by tag, CPU of the server per request, for two users of one server in turn.

One user has AdministratorAccess alone, the other twenty statements in five policies, of which the last allows. Each
round asks the same of both, the order turned each round, and the first round is not kept; printed is the median over
rounds of the server's CPU (user and kernel, all its processes) per 1,000 GETs, and of the ratio. Mark: 1.15.

    python bench/access.py [--rounds 7] [--requests 5000] [--connections 4]
"""

from __future__ import annotations

import argparse
import base64
import json
import shutil
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]  # run as a script: `harness` lies in tests

import boto3  # noqa: E402 - once the path above is set
from compare import Figure, machine, measure  # noqa: E402 - as above
from load import Line, expect, push_blob, together  # noqa: E402 - as above
from peers import Peer, wharfage  # noqa: E402 - as above
from statements import twenty_statements  # noqa: E402 - as above

from harness.server import Server, password_at  # noqa: E402 - as above
from proxy.auth.managed import ADMINISTRATOR_ACCESS  # noqa: E402 - as above

MARK = 1.15
KIND = "application/vnd.oci.image.manifest.v1+json"
PATH = "/v2/bench/app/manifests/v1"
CONFIG = b"{}"
CONFIG_DIGEST = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def put_manifest(peer: Peer) -> None:
    line = Line(peer.address, peer.headers)
    push_blob(line, "bench/app", memoryview(CONFIG), CONFIG_DIGEST)
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": CONFIG_DIGEST, "size": len(CONFIG)}
    body = json.dumps({"schemaVersion": 2, "mediaType": KIND, "config": config, "layers": []}).encode()
    expect(line.ask("PUT", PATH, body, f"Content-Type: {KIND}\r\n"), 201)
    line.close()


def as_user(peer: Peer, iam: Any, name: str, policy_arns: list[str]) -> Peer:
    """The same server as a new user with those policies attached sees it."""
    iam.create_user(UserName=name)
    for arn in policy_arns:
        iam.attach_user_policy(UserName=name, PolicyArn=arn)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    password = password_at(f"http://{peer.address}", key["AccessKeyId"], key["SecretAccessKey"])
    basic = base64.b64encode(f"AWS:{password}".encode()).decode()
    return replace(peer, name=name, headers=f"Authorization: Basic {basic}\r\n")


def users(peer: Peer, home: Path) -> list[Peer]:
    key_id, secret = Server(peer.daemon, peer.address, home / peer.name).credentials()
    asked = {"region_name": "us-east-1", "aws_access_key_id": key_id, "aws_secret_access_key": secret}
    iam: Any = boto3.client("iam", endpoint_url=f"http://{peer.address}", **asked)
    account = iam.get_user()["User"]["Arn"].split(":")[4]
    narrow = [
        iam.create_policy(PolicyName=f"policy-{number}", PolicyDocument=text)["Policy"]["Arn"]
        for number, text in enumerate(twenty_statements(account))
    ]
    return [
        as_user(peer, iam, "AdministratorAccess", [ADMINISTRATOR_ACCESS]),
        as_user(peer, iam, "twenty-statements", narrow),
    ]


def manifests(user: Peer, requests: int, connections: int) -> Figure:
    def one(line: Line, number: int) -> None:
        expect(line.ask("GET", PATH, more=f"Accept: {KIND}\r\n"), 200)

    return measure(user, requests / 1000, lambda: together(connections, user.address, user.headers, one, requests))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--connections", type=int, default=4)
    asked = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="wharfage-bench-"))
    peer = wharfage(home)
    try:
        put_manifest(peer)
        both = users(peer, home)
        figures: dict[str, list[float]] = {user.name: [] for user in both}
        for number in range(asked.rounds + 1):
            for user in both if number % 2 else reversed(both):
                figure = manifests(user, asked.requests, asked.connections)
                if number:
                    figures[user.name].append(figure.cpu)
            print(f"round {number} of {asked.rounds}{' (warming)' if not number else ''}", file=sys.stderr)
    finally:
        peer.daemon.stop()
        shutil.rmtree(home, ignore_errors=True)
    wide, narrow = figures.values()
    ratios = [one / other for one, other in zip(narrow, wide, strict=True)]
    print(machine())
    for name, spent in figures.items():
        middle = statistics.median(spent)
        print(f"{name}: {middle:.3f} CPU-s per 1,000 GETs ({min(spent):.3f} to {max(spent):.3f})")
    print(f"ratio {statistics.median(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f}), mark {MARK}")
    return 0 if statistics.median(ratios) <= MARK else 1


if __name__ == "__main__":
    sys.exit(main())
