"""What lifecycle rules, events and replication cost, in CPU-seconds of the servers' processes.

    python bench/images_over_time.py [--rounds 5] [--images 200] [--mib 1] [--layers 16] [--layer-mib 64]

- A push of an image into a repository with a lifecycle policy of three rules, in an account with three rules of events
  of which one matches and sends to a webhook, to a push without either. Until the webhook has all events. Bar: 1.1.
- Replication of an image to another installation, both sides, to a pull of it plus a push of it. Bar: 1.3.

Rounds are interleaved: in each, either side once, in turned order where both are alike. Layers are new each time.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import boto3

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]  # run as a script: `support` is in tests

from figures import source  # noqa: E402 - once the path above is set
from load import Content, Layer, Line, expect, push_blob, together  # noqa: E402 - as above
from peers import Peer, wharfage  # noqa: E402 - as above

from support.installations import Installation, put_rules  # noqa: E402 - as above
from support.registry import digest_of, image_manifest  # noqa: E402 - as above
from support.webhooks import Webhook  # noqa: E402 - as above

MIB = 1 << 20
LINES = 4
REPOSITORY = "bench/app"
CONFIG = b"{}"
PUSH_BAR, REPLICATION_BAR = 1.1, 1.3
WAIT_SECONDS = 300
LIFECYCLE = [
    {"tagStatus": "tagged", "tagPrefixList": ["release"], "countType": "imageCountMoreThan", "countNumber": 1000},
    {"tagStatus": "untagged", "countType": "sinceImagePushed", "countUnit": "days", "countNumber": 30},
    {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 100_000},
]
PATTERNS = {
    "pushes": {"source": ["aws.ecr"], "detail": {"action-type": ["PUSH"], "image-tag": [{"prefix": "t"}]}},
    "deletions": {"source": ["aws.ecr"], "detail": {"action-type": ["DELETE"]}},
    "scans": {"detail-type": ["ECR Image Scan"]},
}


def spent(peers: Sequence[Peer], work: Callable[[], object]) -> float:
    """CPU-seconds of all processes of these servers while it is done."""

    def now() -> float:
        return sum(used.user + used.kernel for used in (peer.used() for peer in peers))

    before = now()
    work()
    return now() - before


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not come to its end")
        time.sleep(0.02)


class Pushes:
    """Two servers alike, but for the rules of the second."""

    def __init__(self, home: Path, webhook: Webhook, images: int, size: int) -> None:
        self._images = images
        self._content = Content(size)
        self._webhook = webhook
        self._sent = 0
        more = {"WHARFAGE_EVENTS_ALLOWED_NETWORKS": "127.0.0.0/8"}
        self.plain, self.ruled = wharfage(home, "plain", more), wharfage(home, "ruled", more)
        for peer in (self.plain, self.ruled):
            client(peer, "ecr").create_repository(repositoryName=REPOSITORY)
        rules = [
            {"rulePriority": number, "selection": selection, "action": {"type": "expire"}}
            for number, selection in enumerate(LIFECYCLE, 1)
        ]
        client(self.ruled, "ecr").put_lifecycle_policy(
            repositoryName=REPOSITORY, lifecyclePolicyText=json.dumps({"rules": rules})
        )
        events = client(self.ruled, "events")
        for name, pattern in PATTERNS.items():
            events.put_rule(Name=name, EventPattern=json.dumps(pattern))
            events.put_targets(Rule=name, Targets=[{"Id": "hook", "Arn": f"{webhook.url}/hook"}])

    def measure(self, peer: Peer) -> float:
        """CPU-seconds of a push, its event's delivery included."""
        layers = [self._content.fresh() for _ in range(self._images)]

        def one(line: Line, number: int) -> None:
            push_image(line, REPOSITORY, f"t{number}", [layers[number]])

        def all_of_them() -> None:
            together(LINES, peer.address, peer.headers, one, self._images)
            if peer is self.ruled:
                self._sent += self._images
                until(lambda: len(self._webhook.received) >= self._sent)

        return spent([peer], all_of_them) / self._images

    def round(self, number: int) -> tuple[float, float]:
        """Without and with rules."""
        both = (self.plain, self.ruled)
        found = {peer.name: self.measure(peer) for peer in (both if number % 2 else both[::-1])}
        return found["plain"], found["ruled"]

    def end(self) -> None:
        for peer in (self.plain, self.ruled):
            peer.daemon.stop()


class Replication:
    """Two installations, of which one replicates to the other."""

    def __init__(self, home: Path, layers: int, size: int) -> None:
        self._layers = layers
        self._content = Content(size)
        self.there = Installation.start(home / "there", "eu-west-1", workers=2)
        self.here = Installation.start(home / "here", "us-east-1", workers=2)
        self.here.peer_with(self.there)
        self._peers = [_as_peer(self.here), _as_peer(self.there)]

    def round(self, number: int) -> tuple[float, float]:
        """A pull plus a push, and the replication, of the same image: it is replicated when it gets a tag."""
        here, there = self._peers
        layers = [self._content.fresh() for _ in range(self._layers)]
        put_rules(self.here, [])
        line = Line(here.address, here.headers)
        with contextlib.closing(line):
            manifest = b""

            def push() -> None:
                nonlocal manifest
                manifest = push_image(line, REPOSITORY, "", layers)

            def pull() -> None:
                for layer in layers:
                    expect(line.ask("GET", f"/v2/{REPOSITORY}/blobs/{layer.digest}"), 200, layer.size)

            def replicate() -> None:
                put_manifest(line, REPOSITORY, f"r{number}", manifest)
                until(lambda: not self.here.waiting())

            alone = spent([here], push) + spent([here], pull)
            self.here.replicate_to(self.there)
            both = spent([here, there], replicate)
        with contextlib.closing(Line(there.address, there.headers)) as line:
            expect(line.ask("HEAD", f"/v2/{REPOSITORY}/manifests/r{number}"), 200)
            for layer in layers:
                expect(line.ask("HEAD", f"/v2/{REPOSITORY}/blobs/{layer.digest}"), 200)
        for peer in self._peers:
            peer.forget()  # a disk holds a few rounds
        return alone, both

    def end(self) -> None:
        self.here.stop()
        self.there.stop()


def push_image(line: Line, repository: str, tag: str, layers: Sequence[Layer]) -> bytes:
    """The manifest; without a tag it is pushed by its digest."""
    push_blob(line, repository, memoryview(CONFIG), digest_of(CONFIG))
    for layer in layers:
        push_blob(line, repository, layer, layer.digest)
    listed = json.loads(image_manifest(CONFIG, []))
    listed["layers"] = [
        {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.digest, "size": layer.size}
        for layer in layers
    ]
    manifest = json.dumps(listed).encode()
    put_manifest(line, repository, tag or digest_of(manifest), manifest)
    return manifest


def put_manifest(line: Line, repository: str, reference: str, manifest: bytes) -> None:
    more = f"Content-Type: {json.loads(manifest)['mediaType']}\r\n"
    expect(line.ask("PUT", f"/v2/{repository}/manifests/{reference}", manifest, more), 201)


def client(peer: Peer, service: str) -> Any:
    key_id, secret = peer.as_server().credentials()
    return boto3.client(
        service,
        endpoint_url=f"http://{peer.address}",
        region_name="us-east-1",
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
    )


def _as_peer(installation: Installation) -> Peer:
    server = installation.server
    basic = base64.b64encode(f"AWS:{installation.password()}".encode()).decode()
    headers = f"Authorization: Basic {basic}\r\n"
    return Peer(installation.region, server.address, headers, server.daemon, server.data / "objects")


def shown(name: str, unit: str, bar: float, rounds: Sequence[tuple[float, float]]) -> str:
    """A row of the table: medians of both sides, and of their ratio in each round, with the least and the greatest."""
    ratios = [full / small for small, full in rounds]
    one, other = (statistics.median(side) for side in zip(*rounds, strict=True))
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"| {name} | {unit} | {one:.3g} | {other:.3g} | {spread} | ≤ {bar:g} |"


def in_rounds(side: Pushes | Replication, rounds: int) -> Iterator[tuple[float, float]]:
    """The first round, in which both sides load what they need, does not count."""
    for number in range(rounds + 1):
        found = side.round(number)
        if number:
            yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=200, help="pushed to either side in a round")
    parser.add_argument("--mib", type=int, default=1, help="of the layer of each")
    parser.add_argument("--layers", type=int, default=16, help="of the image that is replicated")
    parser.add_argument("--layer-mib", type=int, default=64)
    asked = parser.parse_args()
    with contextlib.ExitStack() as held:
        home = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="wharfage-over-time-")))
        webhook = held.enter_context(Webhook())
        pushes = Pushes(home, webhook, asked.images, asked.mib * MIB)
        held.callback(pushes.end)
        of_pushes = list(in_rounds(pushes, asked.rounds))
        replication = Replication(home, asked.layers, asked.layer_mib * MIB)
        held.callback(replication.end)
        of_replication = list(in_rounds(replication, asked.rounds))
    gigabytes = asked.layers * asked.layer_mib * MIB / 1e9
    of_replication = [(small / gigabytes, full / gigabytes) for small, full in of_replication]
    print(f"{source().line()}\n")
    print("| | CPU-s a | without | with | ratio | bar |\n|---|---|---|---|---|---|")
    print(shown("push, three rules and a target to none", "push", PUSH_BAR, of_pushes))
    print(shown("replication to a pull plus a push", "GB", REPLICATION_BAR, of_replication))


if __name__ == "__main__":
    main()
