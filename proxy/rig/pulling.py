"""pull, range, head, list: what readers of a registry ask, each body counted against its promise and dropped.

A pull is the manifest by tag (of an index its first image), the configuration, the layers; with `ranges`, instead of
each layer one range of so many bytes at a place that the operation's draw gives. Lengths are always held against the
manifest, digests when `verify` says so (SHA-256 and SHA-512).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from random import Random
from typing import Any

from proxy.model.manifests import DOCKER_IMAGE, DOCKER_LIST, OCI_IMAGE, OCI_INDEX
from proxy.rig.client import Client
from proxy.rig.plan import Target, is_tag
from proxy.rig.pushing import at_once, reading
from proxy.upstream.errors import RequestFailed

PAGES = 100  # of one listing
PAGE = 1000  # tags asked for at once

_ACCEPT = {"Accept": ", ".join((OCI_IMAGE, OCI_INDEX, DOCKER_IMAGE, DOCKER_LIST))}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}", re.ASCII)
_NEXT = re.compile(r'<([^<>"\s]{1,8000})>\s*;\s*rel="?next"?', re.ASCII | re.IGNORECASE)
_LAYERS = 1000  # of one image


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A descriptor: digest and size as the manifest has them."""

    digest: str
    size: int


class Puller:
    """Pulls, `parallel` layers of an image at a time; `ranges`: bytes of each layer, None for all of it."""

    def __init__(self, client: Client, *, parallel: int, verify: bool, ranges: int | None) -> None:
        self._client = client
        self._parallel = parallel
        self._verify = verify
        self._ranges = ranges

    async def pull(self, target: Target) -> int:
        """One image; returns the bytes that came."""
        config, layers, read = await self._image(target)
        blobs = [self._whole(target.repository, blob) for blob in (config, *layers)]
        return read + sum(await at_once(self._parallel, blobs))

    async def ranged(self, target: Target, draw: int) -> int:
        """A range of each layer of an image, at places drawn from `draw`; returns the bytes that came."""
        _, layers, read = await self._image(target)
        random = Random(f"range/{draw}")  # noqa: S311  # seeded, no secret
        parts = []
        for layer in layers:
            length = min(self._ranges or layer.size, layer.size)
            start = int(random.random() * (layer.size - length + 1))
            if length:
                parts.append(self._part(target.repository, layer, start, length))
        return read + sum(await at_once(self._parallel, parts))

    async def head(self, target: Target) -> int:
        """HEAD of the tag, which moves no bytes."""
        await self._client.ask(
            "head-manifest",
            "HEAD",
            f"/v2/{target.repository}/manifests/{target.tag}",
            scopes=reading(target.repository),
            expect=frozenset({200}),
            headers=_ACCEPT,
        )
        return 0

    async def manifest(self, repository: str, reference: str) -> bytes:
        """The bytes of a manifest; its digest is compared when `verify` says so and there is one to compare."""
        answer = await self._client.ask(
            "get-manifest",
            "GET",
            f"/v2/{repository}/manifests/{reference}",
            scopes=reading(repository),
            expect=frozenset({200}),
            headers=_ACCEPT,
        )
        digest = reference if ":" in reference else answer.headers.get("Docker-Content-Digest", "")
        if self._verify and _DIGEST.fullmatch(digest):
            algorithm, _, wanted = digest.partition(":")
            if hashlib.new(algorithm, answer.body).hexdigest() != wanted:
                raise RequestFailed("wrong-digest", "a manifest is not what its digest says")
        return answer.body

    async def _image(self, target: Target) -> tuple[Descriptor, list[Descriptor], int]:
        """(configuration, layers, bytes read) of a tag; of an index its first image counts."""
        body = await self.manifest(target.repository, target.tag)
        facts, read = _object(body), len(body)
        if isinstance(facts.get("manifests"), list):
            if not facts["manifests"]:
                raise RequestFailed("bad-manifest", "an index without images")
            body = await self.manifest(target.repository, _blob(facts["manifests"][0]).digest)
            facts, read = _object(body), read + len(body)
        layers = facts.get("layers")
        if not isinstance(layers, list) or len(layers) > _LAYERS:
            raise RequestFailed("bad-manifest", f"no list of at most {_LAYERS} layers in a manifest")
        return _blob(facts.get("config")), [_blob(layer) for layer in layers], read

    async def _whole(self, repository: str, blob: Descriptor) -> int:
        algorithm, _, wanted = blob.digest.partition(":")
        hasher = hashlib.new(algorithm) if self._verify else None
        path = f"/v2/{repository}/blobs/{blob.digest}"
        async with self._client.layer("get-blob", path, scopes=reading(repository), headers={}) as answer:
            if answer.status != 200:
                raise RequestFailed("wrong-range", "a part came where all was asked for")
            length = 0
            async for piece in answer.content.iter_any():
                length += len(piece)
                if length > blob.size:
                    break
                if hasher is not None:
                    hasher.update(piece)
            if length != blob.size:
                raise RequestFailed("wrong-length", "a blob is not as long as its manifest says")
            if hasher is not None and hasher.hexdigest() != wanted:
                raise RequestFailed("wrong-digest", "a blob is not what its digest says")
        return length

    async def _part(self, repository: str, blob: Descriptor, start: int, length: int) -> int:
        last = start + length - 1
        path = f"/v2/{repository}/blobs/{blob.digest}"
        asked = {"Range": f"bytes={start}-{last}"}
        async with self._client.layer("get-range", path, scopes=reading(repository), headers=asked) as answer:
            content_range = answer.headers.get("Content-Range", "")
            if answer.status != 206 or content_range.replace(" ", "") != f"bytes{start}-{last}/{blob.size}":
                raise RequestFailed("wrong-range", "a range was asked for, and something else came")
            came = 0
            async for piece in answer.content.iter_any():
                came += len(piece)
                if came > length:
                    break
            if came != length:
                raise RequestFailed("wrong-length", "a range is not as long as it was asked for")
        return came


async def tags(client: Client, repository: str, *, most: int | None = None) -> tuple[list[str], int]:
    """(tags, bytes read) of a repository over all its pages (distribution-spec "listing tags"), at most PAGES. The tags
    are kept up to `most`, None keeps none."""
    found: list[str] = []
    read = 0
    to: Any = f"/v2/{repository}/tags/list?n={PAGE}"
    for _ in range(PAGES):
        answer = await client.ask("list-tags", "GET", to, scopes=reading(repository), expect=frozenset({200}))
        read += len(answer.body)
        listed = _object(answer.body).get("tags") or []
        if not isinstance(listed, list):
            raise RequestFailed("bad-listing", "a listing without tags")
        found += [tag for tag in listed if is_tag(tag)][: (most or 0) - len(found)]
        link = _NEXT.search(answer.headers.get("Link", ""))
        if link is None or (most is not None and len(found) >= most):
            return found, read
        to = client.reach.page(link[1], answer.url)
    raise RequestFailed("endless-listing", f"more than {PAGES} pages of tags")


def sizes_of(manifest: bytes) -> list[int] | None:
    """Of an image's layers, by its manifest; None when it is none."""
    try:
        layers = _object(manifest).get("layers")
        return [_blob(layer).size for layer in layers] if isinstance(layers, list) else None
    except RequestFailed:
        return None


def _object(body: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(body)
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise RequestFailed("bad-json", "a manifest or listing that is no JSON object")
    return facts


def _blob(descriptor: object) -> Descriptor:
    if isinstance(descriptor, dict):
        digest, size = descriptor.get("digest"), descriptor.get("size")
        if isinstance(digest, str) and _DIGEST.fullmatch(digest) and type(size) is int and size >= 0:
            return Descriptor(digest, size)
    raise RequestFailed("bad-manifest", "a descriptor without a digest of SHA-256 or SHA-512, or without a size")
