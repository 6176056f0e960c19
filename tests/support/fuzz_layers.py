"""Odd requests around layers through the API: parts cut, doubled and out of their order, and links tampered with.

Both go on from what answers have told: ids of uploads that InitiateLayerUpload has begun, and links of
GetDownloadUrlForLayer. A part's JSON is read as it comes in, so its members stand in any order here, its bytes are
escaped as JSON allows, and its body may end too early.
"""

from __future__ import annotations

import json
from base64 import b64encode
from random import Random

from support import fuzz_values
from support.examples import REPOSITORY
from support.fuzz_input import METHODS, Drawn, Known, is_http, printable
from support.oci_requests import digest_of
from support.registry_client import HOST, raw_request, written
from support.sigv4_signer import Lines, Scope, signed

CONTENT = bytes(range(256)) * 400
_CUTS = (0, 1, 7, 300, 4096, 50_000, len(CONTENT))
_RANGES = ("bytes=0-", "bytes=0-0", "bytes=-1", "bytes=5-2", "bytes=99999999-", "bytes=0-0,2-2", "bytes=x", "items=0-1")


def part(rng: Random, known: Known) -> Drawn:
    """Mostly a piece of one content where it belongs in it, whether or not the upload stands there; or the end."""
    upload = rng.choice(known.parted)
    if rng.random() < 0.2:
        return _complete(rng, known, upload)
    first, stop = sorted(rng.sample(_CUTS, 2))
    blob = b64encode(CONTENT[first:stop]).decode()
    if rng.random() < 0.2:
        blob = fuzz_values.spoil(rng, blob[:2000])
    members = [
        ("repositoryName", REPOSITORY),
        ("uploadId", upload),
        ("partFirstByte", first),
        ("partLastByte", stop - 1 if rng.random() < 0.8 else rng.choice((stop, first, -1, 2**70, "1", None))),
        ("layerPartBlob", blob),
    ]
    rng.shuffle(members)
    if rng.random() < 0.1:
        members.append(rng.choice(members))
    body = ",".join(f"{json.dumps(name)}:{_spaces(rng)}{_escaped(rng, json.dumps(value))}" for name, value in members)
    content = f"{{{body}}}".encode()
    lines, _ = written("ecr", "UploadLayerPart", {})
    whole = rng.random() < 0.8
    cut = content if whole else content[: rng.randrange(len(content))]
    early = rng.random() < 0.5  # signed, and then cut
    lines = signed("POST", "/", lines, content if early else cut, known.signers[0], Scope("ecr"))
    is_sound = whole or not early
    return Drawn(raw_request("POST", "/", lines, cut), False, True, "ecr", "UploadLayerPart", signed_anew=is_sound)


def link(rng: Random, known: Known) -> Drawn:
    """As it was given, or with its digest, its token or both not quite so; with ranges, and by any method."""
    given = rng.choice(known.links)
    target = given
    if rng.random() < 0.7:
        at, _, token = given.partition("?token=")
        match rng.randrange(4):
            case 0:
                token = printable(fuzz_values.spoil(rng, token)).replace(" ", "")
            case 1:
                at = printable(fuzz_values.spoil(rng, at)).replace(" ", "") or "/layers/"
                at = at if at.startswith("/layers/") else f"/layers/{at}"
            case 2:
                at = f"/layers/{rng.choice(known.digests)}"
            case _:
                token = rng.choice((token[:-1], token + "A", f"{token}&token={token}", "", token.swapcase()))
        target = f"{at}?token={token}"
    method = rng.choice(("GET", "GET", "GET", "HEAD", rng.choice(METHODS)))
    lines: Lines = [("Host", HOST)]
    if rng.random() < 0.3:
        lines.append(("Range", rng.choice(_RANGES)))
    raw = raw_request(method, target, lines, b"")
    is_given = _same(target, given)
    return Drawn(raw, method == "HEAD", is_http(method, target, lines), "link", signed_anew=is_given)


def learn(known: Known, operation: str, body: bytes) -> None:
    """What a good answer tells for later."""
    if operation == "InitiateLayerUpload":
        known.parted.append(json.loads(body)["uploadId"])
    elif operation == "GetDownloadUrlForLayer":
        known.links.append("/layers/" + json.loads(body)["downloadUrl"].partition("/layers/")[2])


def _complete(rng: Random, known: Known, upload: str) -> Drawn:
    came = CONTENT[: rng.choice(_CUTS)]
    asked = {"repositoryName": REPOSITORY, "uploadId": upload, "layerDigests": [digest_of(came)]}
    lines, body = written("ecr", "CompleteLayerUpload", asked)
    lines = signed("POST", "/", lines, body, known.signers[0], Scope("ecr"))
    return Drawn(raw_request("POST", "/", lines, body), False, True, "ecr", "CompleteLayerUpload", signed_anew=True)


def _spaces(rng: Random) -> str:
    return rng.choice(("", "", " ", "\n\t "))


def _escaped(rng: Random, text: str) -> str:
    return text.replace("/", "\\/") if rng.random() < 0.2 else text


def _same(target: str, given: str) -> bool:
    """Whether it is the link all the same: a colon may be written in two ways."""
    return target.replace("%3A", ":").replace("%3a", ":") == given.replace("%3A", ":")
