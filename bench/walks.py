"""What `registry_size` asks of two registries by turns, and how long the answers took.

A case is one question: an operation of the ECR door, signed before its clock runs, or requests of docker's door. Each
round asks every case of both sides, some times in a row, the order turned each round; which repository of many is
asked for is drawn at random, the same way on both. Reads come before writes, so that lists are as they were filled.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from fill import ACCOUNT, DEEP, KIND, TAGGED, Size, name_of, tag_of
from load import Line, expect, push_blob
from tqdm import tqdm  # type: ignore[import-untyped]  # ships no types

from harness.server import Server
from proxy.ecr.routes import TARGET_PREFIX

PAGE = 50
REGION = "us-east-1"
POLICY = json.dumps({"Statement": {"Effect": "Allow", "Principal": "*", "Action": "ecr:BatchGetImage"}})
REGISTRY_POLICY = json.dumps(
    {
        "Statement": {
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
            "Action": "ecr:CreateRepository",
            "Resource": f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/*",
        }
    }
)


class Side:
    """A served registry, one line to each of its doors."""

    def __init__(self, server: Server, size: Size, random: Random) -> None:
        self.size = size
        self.random = random
        self._address = server.address
        self._credentials = Credentials(*server.credentials())
        basic = base64.b64encode(f"AWS:{server.password()}".encode()).decode()
        self._headers = f"Authorization: Basic {basic}\r\n"
        self.begin()
        self.marks: dict[str, str] = {}  # tokens of pages, by what they are pages of

    def begin(self) -> None:
        """Lines to both doors, anew: what has been idle for long may be closed."""
        self._http = http.client.HTTPConnection(self._address, timeout=60)
        self._http.connect()
        self.docker = Line(self._address, self._headers)

    def call(self, operation: str, parameters: Mapping[str, Any], *, error: str = "") -> tuple[float, Any]:
        """(seconds, answer); `error` is the code of the answer where there can be no better one."""
        request = AWSRequest("POST", f"http://{self._address}/", data=json.dumps(parameters).encode())
        request.headers["Content-Type"] = "application/x-amz-json-1.1"
        request.headers["X-Amz-Target"] = TARGET_PREFIX + operation
        SigV4Auth(self._credentials, "ecr", REGION).add_auth(request)
        headers = dict(request.headers.items())
        began = time.perf_counter()
        self._http.request("POST", "/", request.data, headers)
        answered = self._http.getresponse()
        body = answered.read()
        seconds = time.perf_counter() - began
        answer = json.loads(body)
        code = "" if answered.status == 200 else str(answer.get("__type")).rpartition("#")[2]
        if code != error:
            raise RuntimeError(f"{operation} {parameters}: {answer}")
        return seconds, answer

    def get(self, path: str) -> float:
        began = time.perf_counter()
        expect(self.docker.ask("GET", path, more=f"Accept: {KIND}\r\n"), 200)
        return time.perf_counter() - began

    def some(self) -> str:
        """A repository's name."""
        return name_of(self.random.randrange(self.size.repositories))

    def close(self) -> None:
        self._http.close()
        self.docker.close()


@dataclass(frozen=True, slots=True)
class Case:
    """`ask` takes a side and which time this is, and gives the seconds."""

    name: str
    page: str
    ask: Callable[[Side, int], float]


@dataclass(slots=True)
class Figures:
    """Seconds of every answer."""

    name: str
    page: str
    small: list[float] = field(default_factory=list)
    full: list[float] = field(default_factory=list)

    def at(self, part: float) -> tuple[float, float]:
        return _at(self.small, part), _at(self.full, part)

    @property
    def worst(self) -> float:
        return max(full / small for small, full in (self.at(0.5), self.at(0.99)))


def measure(small: Side, full: Side, rounds: int, in_a_row: int) -> list[Figures]:
    """The first round warms both and is not kept."""
    found: list[Figures] = []
    try:
        for cases in (list(_reads()), list(_writes())):
            figures = [Figures(case.name, case.page) for case in cases]
            for number in tqdm(range(rounds + 1), unit=" rounds", disable=None):
                for case, kept in zip(cases, figures, strict=True):
                    for side in (small, full) if number % 2 else (full, small):
                        side.close()
                        side.begin()
                        took = [case.ask(side, number * in_a_row + each) for each in range(in_a_row)]
                        if number:
                            (kept.small if side is small else kept.full).extend(took)
            found += figures
    finally:
        small.close()
        full.close()
    return found


def table(figures: list[Figures]) -> str:
    """Markdown, one row a case; milliseconds."""
    lines = [
        "| what is asked | page | small: p50 | full: p50 | ratio | small: p99 | full: p99 | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in figures:
        cells = []
        for small, full in (each.at(0.5), each.at(0.99)):
            cells += [f"{small * 1000:.2f}", f"{full * 1000:.2f}", f"{full / small:.2f}"]
        lines.append(f"| {each.name} | {each.page} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _at(seconds: list[float], part: float) -> float:
    if part == 0.5:
        return statistics.median(seconds)
    return sorted(seconds)[min(len(seconds) - 1, int(len(seconds) * part))]


def _reads() -> Iterator[Case]:
    yield from _pages("DescribeRepositories", lambda size: size.repositories + 2)
    yield _one("DescribeRepositories", "by name", lambda side: {"repositoryNames": [side.some() for _ in range(PAGE)]})
    for status, share in (("ANY", 1), ("TAGGED", 2), ("UNTAGGED", 2)):
        asked = {"repositoryName": DEEP, "filter": {"tagStatus": status}}
        for operation in ("DescribeImages", "ListImages"):
            yield from _pages(operation, _part(share), asked, status)
    yield _one("DescribeImages", "by tag", lambda side: {"repositoryName": DEEP, "imageIds": _tags(side)})
    yield _one("DescribeImages", "an image of 1,000 tags", lambda side: {"repositoryName": TAGGED})
    yield _one("DescribeImages", "of ten", lambda side: {"repositoryName": side.some()})
    yield _one("ListImages", "of ten", lambda side: {"repositoryName": side.some()})
    yield _one("BatchGetImage", "by tag", lambda side: {"repositoryName": DEEP, "imageIds": _tags(side)})
    yield _one("ListTagsForResource", "", lambda side: {"resourceArn": _arn(side.some())})
    for operation, error in _OF_THE_REGISTRY.items():
        yield _one(operation, "", lambda side: {}, error)
    yield _one("GetAccountSetting", "", lambda side: {"name": "BLOB_MOUNTING"})
    yield _one(
        "GetRepositoryPolicy", "", lambda side: {"repositoryName": side.some()}, "RepositoryPolicyNotFoundException"
    )
    archive = {"repositoryName": DEEP, "imageId": {"imageTag": tag_of(0)}, "targetStorageClass": "ARCHIVE"}
    yield _one("UpdateImageStorageClass", "", lambda side: archive, "ImageStorageClassUpdateNotSupportedException")
    yield Case("GET manifest", "of ten", lambda side, n: side.get(f"/v2/{side.some()}/manifests/{tag_of(n % 2)}"))
    yield Case("GET manifest", "of many", lambda side, n: side.get(f"/v2/{DEEP}/manifests/{_tag(side)}"))
    yield Case("GET tags/list", "middle", lambda side, n: side.get(f"/v2/{DEEP}/tags/list?n={PAGE}&last={_tag(side)}"))
    yield Case("GET _catalog", "middle", lambda side, n: side.get(f"/v2/_catalog?n={PAGE}&last={name_of(9)}"))


def _writes() -> Iterator[Case]:
    def named(**more: Any) -> Callable[[Side], dict[str, Any]]:
        return lambda side: {"repositoryName": side.some(), **more}

    def made(operation: str, **more: Any) -> Case:
        return Case(operation, "", lambda side, n: side.call(operation, {"repositoryName": f"made/{n}", **more})[0])

    tagged = lambda side: {"resourceArn": _arn(side.some()), "tags": [{"Key": "team", "Value": "blue"}]}  # noqa: E731
    yield made("CreateRepository")
    yield made("SetRepositoryPolicy", policyText=POLICY)
    yield made("GetRepositoryPolicy")
    yield made("DeleteRepositoryPolicy")
    yield _one("PutImageScanningConfiguration", "", named(imageScanningConfiguration={"scanOnPush": True}))
    yield _one("TagResource", "", tagged)
    yield _one("UntagResource", "", lambda side: {"resourceArn": _arn(side.some()), "tagKeys": ["team"]})
    yield _one("PutRegistryPolicy", "", lambda side: {"policyText": REGISTRY_POLICY})
    yield _one("GetRegistryPolicy", "", lambda side: {})
    yield Case("DeleteRegistryPolicy", "", _without_registry_policy)
    yield _one("PutAccountSetting", "", lambda side: {"name": "BLOB_MOUNTING", "value": "ENABLED"})
    yield Case("push", "new", lambda side, n: _push(side, f"made/{n}", n))
    yield Case("push", "of ten", lambda side, n: _push(side, side.some(), n))
    yield Case("push", "of many", lambda side, n: _push(side, DEEP, n))
    yield Case("pull", "new", lambda side, n: _pull(side, f"made/{n}", n))
    yield Case("pull", "of many", lambda side, n: _pull(side, DEEP, n))
    yield Case("BatchDeleteImage", "of many", _delete)
    yield made("DeleteRepository", force=True)


_OF_THE_REGISTRY = {
    "DescribeRegistry": "",
    "GetAuthorizationToken": "",
    "GetRegistryScanningConfiguration": "",
    "GetSigningConfiguration": "SigningConfigurationNotFoundException",
    "GetRegistryPolicy": "RegistryPolicyNotFoundException",
}


def _one(operation: str, page: str, parameters: Callable[[Side], Mapping[str, Any]], error: str = "") -> Case:
    return Case(operation, page, lambda side, n: side.call(operation, parameters(side), error=error)[0])


def _pages(
    operation: str, entries: Callable[[Size], int], asked: Mapping[str, Any] | None = None, what: str = ""
) -> Iterator[Case]:
    """The first, the middle and the last `PAGE` entries of a list of that many."""

    def page(place: str) -> Case:
        def ask(side: Side, number: int) -> float:
            key = f"{operation} {what} {place}"
            more: dict[str, Any] = {"maxResults": PAGE, **(asked or {})}
            if place != "first":
                if key not in side.marks:
                    last = entries(side.size) - PAGE
                    side.marks[key] = _token(side, operation, asked or {}, last // 2 if place == "middle" else last)
                more["nextToken"] = side.marks[key]
            seconds, answer = side.call(operation, more)
            if ("nextToken" in answer) != (place != "last"):
                raise RuntimeError(f"{key}: {answer.get('nextToken')}")
            return seconds

        return Case(operation, f"{what} {place}".strip(), ask)

    return map(page, ("first", "middle", "last"))


def _part(share: int) -> Callable[[Size], int]:
    return lambda size: size.deep // share


def _token(side: Side, operation: str, asked: Mapping[str, Any], position: int) -> str:
    """Where the list goes on after so many entries."""
    token: dict[str, str] = {}
    while position:
        step = min(position, 1000)
        _, answer = side.call(operation, {"maxResults": step, **asked, **token})
        token = {"nextToken": answer["nextToken"]}
        position -= step
    return token["nextToken"]


def _tag(side: Side) -> str:
    return tag_of(side.random.randrange(side.size.deep // 2) // 2 * 2)


def _tags(side: Side) -> list[dict[str, str]]:
    first = side.random.randrange(side.size.deep - PAGE * 2) // 2 * 2
    return [{"imageTag": tag_of(first + each * 2)} for each in range(PAGE)]


def _arn(name: str) -> str:
    return f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/{name}"


def _without_registry_policy(side: Side, number: int) -> float:
    side.call("PutRegistryPolicy", {"policyText": REGISTRY_POLICY})
    return side.call("DeleteRegistryPolicy", {})[0]


def _image(repository: str, number: int) -> tuple[bytes, bytes, str]:
    """(config, layer, their manifest) that nobody has."""
    config, layer = (f"{kind} {number} pushed to {repository}".encode() for kind in ("config", "layer"))
    described = [
        {"mediaType": f"application/vnd.oci.image.{kind}", "digest": _digest(content), "size": len(content)}
        for kind, content in (("config.v1+json", config), ("layer.v1.tar", layer))
    ]
    document = {"schemaVersion": 2, "mediaType": KIND, "config": described[0], "layers": described[1:]}
    return config, layer, json.dumps(document)


def _push(side: Side, repository: str, number: int) -> float:
    config, layer, document = _image(repository, number)
    began = time.perf_counter()
    for content in (layer, config):
        push_blob(side.docker, repository, memoryview(content), _digest(content))
    path, more = f"/v2/{repository}/manifests/p{number}", f"Content-Type: {KIND}\r\n"
    expect(side.docker.ask("PUT", path, document.encode(), more), 201)
    return time.perf_counter() - began


def _pull(side: Side, repository: str, number: int) -> float:
    config, layer, _ = _image(repository, number)
    return side.get(f"/v2/{repository}/manifests/p{number}") + sum(
        side.get(f"/v2/{repository}/blobs/{_digest(content)}") for content in (config, layer)
    )


def _delete(side: Side, number: int) -> float:
    seconds, answer = side.call("BatchDeleteImage", {"repositoryName": DEEP, "imageIds": [{"imageTag": f"p{number}"}]})
    if answer["failures"]:
        raise RuntimeError(str(answer))
    return seconds


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
