"""Odd requests to docker's door: every route, with names, references, queries, ranges and bodies that may fit."""

from __future__ import annotations

import base64
import json
from random import Random

from proxy.oci.routes import ROUTES
from support import fuzz_values
from support.examples import REPOSITORY
from support.fuzz_input import HOSTS, METHODS, Drawn, Known, is_http, printable, spoil_bytes
from support.oci_requests import EMPTY_CONFIG, OCI_IMAGE, OCI_INDEX, digest_of, image
from support.registry_client import HOST, raw_request
from support.sigv4_signer import Lines

CONTENTS = (b"", b"x", EMPTY_CONFIG, b"a layer", b"\0" * 300, bytes(range(256)) * 20)
_NAMES = (
    REPOSITORY,
    REPOSITORY,
    REPOSITORY,
    "new/app",
    "a/b/c",
    "a",
    "A/b",
    "..",
    "a/../b",
    "%2e%2e",
    "a%2fb",
    "a" * 300,
    "é",
    "a//b",
    "_x",
)
_REFERENCES = (
    "v1",
    "v2",
    "latest",
    "x" * 129,
    "..",
    "%2e",
    "sha256:",
    "sha256:zz",
    "sha512:" + "0" * 128,
    "é",
    "v1%00",
    "_catalog",
    "*",
)
_RANGES = (
    "bytes=0-",
    "bytes=0-0",
    "bytes=-1",
    "bytes=5-2",
    "bytes=999999-",
    "bytes=0-0,2-2,4-4",
    "bytes=" + "0-0," * 1100,
    "items=0-1",
    "bytes=-",
    "bytes=x",
    "0-5",
    "bytes 0-5/6",
    "5-3",
    "-1-2",
    "9" * 40 + "-" + "9" * 41,
)


def docker(rng: Random, known: Known) -> Drawn:
    route = rng.choice(ROUTES)
    method = route.method if rng.random() < 0.95 else rng.choice(METHODS)
    target = route.pattern.replace("<name>", rng.choice(_NAMES) if rng.random() < 0.5 else REPOSITORY)
    target = target.replace("<reference>", _reference(rng, known, route.pattern))
    content = rng.choice(CONTENTS)
    query = _query(rng, known, content) if rng.random() < 0.6 else ""
    target += f"?{query}" if query else ""
    lines: Lines = [("Host", HOST if rng.random() < 0.95 else rng.choice(HOSTS)), *_login(rng, known)]
    if "/manifests/" in target and method == "PUT":
        content = _manifest(rng, known)
        lines.append(("Content-Type", rng.choice((OCI_IMAGE, OCI_IMAGE, OCI_INDEX, "application/json", "x", ""))))
    elif method not in ("PUT", "POST", "PATCH"):
        content = content if rng.random() < 0.05 else b""
    for name, values in (
        ("Range", _RANGES),
        ("Content-Range", _RANGES),
        ("Accept", ("*/*", OCI_IMAGE, "x", ",;=")),
        ("If-None-Match", ("*", '"x"', "W/")),
        ("Content-Encoding", ("gzip", "identity", "br, gzip")),
        ("User-Agent", ("docker/29", "", "x" * 3000)),
    ):
        if rng.random() < 0.08:
            lines.append((name, rng.choice(values)))
    raw = raw_request(method, target, lines, content)
    return Drawn(raw, method == "HEAD", is_http(method, target, lines), "oci", "", signed_anew=False)


def _reference(rng: Random, known: Known, pattern: str) -> str:
    if "/uploads/" in pattern:
        if known.uploads and rng.random() < 0.8:
            return rng.choice(known.uploads)
        return rng.choice(("00000000-0000-0000-0000-000000000000", "x", *_REFERENCES))
    return rng.choice(known.digests) if rng.random() < 0.6 else rng.choice(_REFERENCES)


def _query(rng: Random, known: Known, content: bytes) -> str:
    digests = (digest_of(content), digest_of(content, "sha512"), *known.digests[:2], "sha256:x", "")
    found = []
    for name, values in (
        ("digest", digests),
        ("mount", digests),
        ("from", (REPOSITORY, "a/b", "..", "")),
        ("digest-algorithm", ("sha256", "sha512", "md5", "")),
        ("n", ("0", "1", "1000", "-1", "x", "9" * 30, "１")),
        ("last", ("v1", "", "\x7f", "zz" * 300, "%00", "%ff")),
        ("tag", ("v3", "x" * 200, "..", "v3")),
        ("artifactType", ("a/b", "", "x" * 500)),
    ):
        if rng.random() < 0.3:
            found.append(f"{name}={rng.choice(values)}")
    if rng.random() < 0.1:
        found.append(rng.choice(("%", "&&&", "a=%zz", "=", "digest", "digest=a&digest=b", "tag=a&" * 30)))
    return "&".join(found)


def _login(rng: Random, known: Known) -> Lines:
    password = known.passwords[0] if rng.random() < 0.8 else rng.choice(known.passwords)
    if rng.random() < 0.9:
        return [("Authorization", "Basic " + base64.b64encode(f"AWS:{password}".encode()).decode())]
    text = base64.b64encode(fuzz_values.spoil(rng, f"AWS:{password}").encode()).decode()
    header = ("Authorization", rng.choice(("Basic ", "Bearer ", "basic ", "", "Basic")) + printable(text))
    return rng.choice(
        ([], [header], [header, header], [("Authorization", "Basic " + "A" * 17_000)], [("Authorization", "Basic é")])
    )


def _manifest(rng: Random, known: Known) -> bytes:
    content = image(
        [b"a layer of team/app"], **({"annotations": {"n": str(rng.randrange(9))}} if rng.random() < 0.5 else {})
    )
    if rng.random() < 0.4:
        return content
    if rng.random() < 0.5:
        return spoil_bytes(rng, content)
    document = json.loads(content)
    for _ in range(rng.randrange(1, 3)):
        document[rng.choice((*document, "subject", "manifests", "artifactType", "blobs", "x"))] = fuzz_values.value(rng)
    if rng.random() < 0.3:
        child = {
            "mediaType": OCI_IMAGE,
            "digest": rng.choice(known.digests),
            "size": rng.choice((1, 500, -1, 2**63, "1", None)),
        }
        document |= {"mediaType": OCI_INDEX, "manifests": [child] * rng.choice((1, 2, 300))}
    return json.dumps(document).encode("utf-8", "surrogatepass")
