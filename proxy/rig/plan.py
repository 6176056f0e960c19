"""What is done, in which order, under which names: all of it follows from the seed.

Image n of a seed is in repository `<prefix>/s<seed>-r<n mod repositories>` under the tag `i<n>`; it has `layers`
layers, of which the first `shared` are those of one base image. No two seeds have a layer in common. Operations come
from an iterator without end; the caller takes as many as there is time for, in this order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from proxy.rig.sizes import Sizes

KINDS = ("push", "pull", "range", "tag", "head", "list")
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
IMAGE_TYPE = "application/vnd.oci.image.manifest.v1+json"

# Of distribution-spec 1.1, "pulling manifests": registries may want more, and say so.
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Layer:
    """What `content.pieces` makes it from; `shared`: a layer of the base image, which other images have too."""

    key: bytes
    size: int
    shared: bool


@dataclass(frozen=True, slots=True)
class Target:
    """Where an image is: a repository's name and a tag."""

    repository: str
    tag: str


@dataclass(frozen=True, slots=True)
class LoadOperation:
    """One thing to do: its kind, the image that it is about, and `draw`, 53 bits for what else it has to choose."""

    kind: str
    image: int
    draw: int


@dataclass(frozen=True, slots=True)
class ImageShape:
    """What images look like. `shared` of the `layers` are the base image's."""

    seed: int
    layers: int
    sizes: Sizes
    shared: int = 0
    repositories: int = 1
    prefix: str = "rig"

    def target(self, image: int) -> Target:
        return Target(f"{self.prefix}/s{self.seed}-r{image % self.repositories}", f"i{image}")

    def layer(self, image: int, number: int) -> Layer:
        shared = number < self.shared
        key = f"{self.seed}/{'base' if shared else image}/{number}"
        return Layer(key.encode(), self.sizes.draw(Random(f"size/{key}")), shared)  # noqa: S311  # seeded, no secret

    def config(self, image: int, digests: Sequence[str]) -> bytes:
        """The image's configuration, which names its layers. They are noise: nothing unpacks or runs it."""
        facts = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Labels": {"wharfage.rig.image": f"{self.seed}/{image}"}},
            "rootfs": {"type": "layers", "diff_ids": list(digests)},
        }
        return json.dumps(facts, separators=(",", ":")).encode()


def manifest(config: tuple[str, int], layers: Sequence[tuple[str, int]]) -> bytes:
    """An OCI image manifest of (digest, size) each."""
    facts = {
        "schemaVersion": 2,
        "mediaType": IMAGE_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": config[0], "size": config[1]},
        "layers": [{"mediaType": LAYER_TYPE, "digest": digest, "size": size} for digest, size in layers],
    }
    return json.dumps(facts, separators=(",", ":")).encode()


def pushes(seed: int, first: int = 0) -> Iterator[LoadOperation]:
    """Images in their order, each once."""
    random = Random(f"push/{seed}")  # noqa: S311  # seeded, no secret
    image = first
    while True:
        yield LoadOperation("push", image, _bits(random))
        image += 1


def pulls(seed: int, images: int, kind: str = "pull") -> Iterator[LoadOperation]:
    """Rounds over all images, each round in an order of its own."""
    random = Random(f"{kind}/{seed}")  # noqa: S311  # seeded, no secret
    order = list(range(images))
    while True:
        for last in range(images - 1, 0, -1):  # Fisher and Yates, by `random()` alone
            other = int(random.random() * (last + 1))
            order[last], order[other] = order[other], order[last]
        for image in order:
            yield LoadOperation(kind, image, _bits(random))


def mixed(seed: int, weights: Mapping[str, int], images: int) -> Iterator[LoadOperation]:
    """Kinds by their weights. All but pushes are about the first `images`; pushes make those that follow."""
    random = Random(f"mix/{seed}")  # noqa: S311  # seeded, no secret
    total = sum(weights.values())
    fresh = images
    while True:
        at = random.random() * total
        kind = ""
        for kind, weight in weights.items():  # noqa: B007  # the last one is taken
            at -= weight
            if at < 0:
                break
        image = int(random.random() * images)
        if kind == "push":
            image, fresh = fresh, fresh + 1
        yield LoadOperation(kind, image, _bits(random))


def parse_weights(text: str) -> dict[str, int]:
    """kind=weight pairs, in the order of KINDS. `ValueError` says what is wrong."""
    given: dict[str, int] = {}
    for pair in text.split(","):
        kind, equals, weight = pair.strip().partition("=")
        if not equals or kind not in KINDS or kind in given or not (weight.isascii() and weight.isdigit()):
            raise ValueError(f"{pair[:64]!r}: write {'|'.join(KINDS)}=WHOLE NUMBER, each kind once")
        if len(weight) > 6:
            raise ValueError(f"{pair[:64]!r}: a weight has at most 6 digits")
        given[kind] = int(weight)
    found = {kind: given[kind] for kind in KINDS if given.get(kind)}
    if not found:
        raise ValueError("all weights are 0")
    return found


def check_repository(name: str) -> str:
    """The name; `ValueError` when it is none."""
    if len(name) > 255 or not _REPOSITORY.fullmatch(name):
        raise ValueError(
            f"{name[:64]!r} is no repository's name: lower-case letters, digits, single . _ - and / between"
        )
    return name


def is_tag(text: object) -> bool:
    return isinstance(text, str) and _TAG.fullmatch(text) is not None


def _bits(random: Random) -> int:
    return int(random.random() * (1 << 53))
