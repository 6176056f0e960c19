"""Images made from scratch: tar layers of incompressible files, written as OCI image layouts that every client reads.

Layers are gzip of level 0 (stored), so that making, pushing and unpacking half a gigabyte costs seconds. Content comes
from a seed: the same seed makes the same digests.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from support.registry import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, digest_of

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Layer:
    """A gzipped tar in memory: `digest` of what is sent, `diff_id` of the tar inside."""

    content: bytes
    digest: str
    diff_id: str


@dataclass(frozen=True, slots=True)
class Layout:
    """An OCI image layout on disk; `digest` is what its index.json names, `image_ids` the config digests in order."""

    path: Path
    digest: str
    image_ids: tuple[str, ...]
    blobs: tuple[str, ...]


def tree(seed: int, size: int, name: str = "data") -> bytes:
    """A tar with one file of `size` random bytes and a small one that names the seed."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, content in (
            (f"{name}/{seed}.bin", random.Random(seed).randbytes(size)),
            (f"{name}/{seed}.txt", b"%d" % seed),
        ):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode, entry.mtime = len(content), 0o644, 1_700_000_000
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def layer(seed: int, size: int) -> Layer:
    plain = tree(seed, size)
    packer = zlib.compressobj(0, zlib.DEFLATED, 31)
    content = packer.compress(plain) + packer.flush()
    return Layer(content, digest_of(content), digest_of(plain))


def write_layout(
    path: Path, seed: int, sizes: Sequence[int], platforms: Sequence[str] = ("amd64",), tag: str = "v1"
) -> Layout:
    """An image with one layer a size; more than one platform makes an index of images, each with its own layers."""
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    written: list[str] = []

    def keep(content: bytes) -> dict[str, object]:
        digest = digest_of(content)
        (blobs / digest.removeprefix("sha256:")).write_bytes(content)
        written.append(digest)
        return {"digest": digest, "size": len(content)}

    images = []
    image_ids = []
    for number, architecture in enumerate(platforms):
        layers = []
        diff_ids = []
        for place, size in enumerate(sizes):
            made = layer(seed * 10_000 + number * 100 + place, size)
            layers.append({"mediaType": OCI_LAYER, **keep(made.content)})
            diff_ids.append(made.diff_id)
        config = {
            "architecture": architecture,
            "os": "linux",
            "created": "2024-01-01T00:00:00Z",
            "config": {"Cmd": ["/none"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [
                {"created": "2024-01-01T00:00:00Z", "created_by": f"layer {place}"} for place in range(len(sizes))
            ],
        }
        descriptor = keep(json.dumps(config).encode())
        image_ids.append(str(descriptor["digest"]))
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, **descriptor},
            "layers": layers,
        }
        platform = {"os": "linux", "architecture": architecture}
        images.append({"mediaType": OCI_MANIFEST, **keep(json.dumps(manifest).encode()), "platform": platform})
    top: dict[str, object] = images[0]
    if len(platforms) > 1:
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": images}
        top = {"mediaType": OCI_INDEX, **keep(json.dumps(index).encode())}
    named = {**top, "annotations": {"org.opencontainers.image.ref.name": tag}}
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [named]}))
    (path / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    return Layout(path, str(top["digest"]), tuple(image_ids), tuple(written))


def check_layout(path: Path, wanted: Layout) -> None:
    """Every blob of `wanted` lies in the layout at `path` and hashes to its name."""
    for digest in wanted.blobs:
        with (path / "blobs" / "sha256" / digest.removeprefix("sha256:")).open("rb") as stored:
            found = hashlib.file_digest(stored, "sha256").hexdigest()
        assert f"sha256:{found}" == digest
