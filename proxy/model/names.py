"""Names and their grammar: repository, tag, digest, upload, ARN.

Everything that a request names passes through here before it reaches a row, and nothing here ever becomes a path.
Sources: OCI Distribution 1.1.1 "Pulling manifests" (name and tag grammar), OCI image-spec "Digests", botocore's `ecr`
model (repositoryName 2-256, tag 1-300; a tag over 128 is refused here as OCI clients cannot use it).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from proxy.model.errors import Code, Failure

REPOSITORY_MAX = 256
DIGEST_HEX = {"sha256": 64, "sha512": 128}

_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[A-Za-z0-9=_-]+", re.ASCII)
_HEX = re.compile(r"[0-9a-f]+", re.ASCII)
_UPLOAD = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Digest:
    """A content address: `algorithm` is sha256 or sha512, `hex` lower case and of that algorithm's length."""

    algorithm: str
    hex: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


@lru_cache(4096)  # a failure is not cached: what is, has at most 256 characters
def parse_digest(text: str) -> Digest:
    """Read `algorithm:hex`; `DigestInvalid` names what is wrong (form, algorithm, case, length)."""
    if len(text) > 256 or not _DIGEST.fullmatch(text):
        raise Failure(
            Code.DIGEST_INVALID, f"{text[:80]!r} is not a digest", hint="a digest reads sha256:<64 hex digits>"
        )
    algorithm, _, encoded = text.partition(":")
    wanted = DIGEST_HEX.get(algorithm)
    if wanted is None:
        raise Failure(
            Code.DIGEST_INVALID, f"digest algorithm {algorithm[:32]!r} is not supported", hint="use sha256 or sha512"
        )
    if len(encoded) != wanted or not _HEX.fullmatch(encoded):
        raise Failure(Code.DIGEST_INVALID, f"a {algorithm} digest has {wanted} lower-case hex digits")
    return Digest(algorithm, encoded)


def is_digest_like(reference: str) -> bool:
    """A manifest reference is a digest exactly when it holds a colon, which no tag may."""
    return ":" in reference


@lru_cache(4096)  # as above
def check_repository(name: str) -> str:
    if len(name) < 2 or len(name) > REPOSITORY_MAX or not _REPOSITORY.fullmatch(name):
        raise Failure(
            Code.NAME_INVALID,
            f"{name[:80]!r} is not a repository name",
            hint="2 to 256 characters: lower-case letters, digits, single . _ - between them, / between parts",
        )
    return name


def check_tag(tag: str) -> str:
    if not _TAG.fullmatch(tag):
        raise Failure(
            Code.TAG_INVALID,
            f"{tag[:80]!r} is not a tag",
            hint="1 to 128 of A-Z a-z 0-9 _ . -, not starting with . or -",
        )
    return tag


def is_upload_id(text: str) -> bool:
    """Upload ids are lower-case UUIDs, as botocore's model wants them."""
    return _UPLOAD.fullmatch(text) is not None


def repository_arn(region: str, account: str, name: str) -> str:
    return f"arn:aws:ecr:{region}:{account}:repository/{name}"
