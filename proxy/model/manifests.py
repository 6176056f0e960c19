"""Reading a manifest: what it is, which blobs and manifests it needs, what it refers to.

Takes the bytes as pushed and never changes them; all that rows and lists need comes back as `ManifestFacts`. Refuses
what two parsers could read differently (duplicate keys, an image that is also an index, a field that contradicts the
header) and what would cost more than a pass over 4 MiB. Unknown fields, `data` fields and absent subjects are fine;
of a media type that nobody knows only the subject is checked. Must not know whether a blob exists.
Sources: OCI image-spec 1.1 "manifest", "image-index", "descriptor"; Docker "Image Manifest Version 2, Schema 2".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from proxy.model.errors import Code, Failure
from proxy.model.names import parse_digest
from proxy.model.records import ImageKind, ManifestFacts

MANIFEST_MAX = 4 * 1024 * 1024  # bytes; OCI asks registries for at least this, ECR takes no more
DEPTH_MAX = 64  # levels of nesting; real manifests have 4, and the parser's recursion limit is near 1,000

OCI_IMAGE = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
DOCKER_IMAGE = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

_SCHEMA_1 = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)
_IMAGE_CONFIGS = frozenset(
    {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
)
_FOREIGN = ("application/vnd.oci.image.layer.nondistributable.", "application/vnd.docker.image.rootfs.foreign.")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}", re.ASCII)
_SIZE_MAX = 2**63 - 1
# Possessive, and the closing quote optional, so that no input makes it scan a stretch twice.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS = bytes(sorted(set(range(256)) - set(b"[]{}")))


def read_manifest(content: bytes, media_type: str | None, *, must_be_typed: bool = False) -> ManifestFacts:
    """Check a manifest and say what it needs. `media_type` is what it came with (Content-Type), None for nothing;
    `must_be_typed`: one of the two must then say it, as PutImage wants; else the shape tells (old OCI manifests).

    Raises `Failure`: MANIFEST_TOO_LARGE over 4 MiB, UNSUPPORTED for Docker's schema 1, MANIFEST_INVALID (naming the
    field) for all else that is wrong.
    """
    if len(content) > MANIFEST_MAX:
        raise Failure(
            Code.MANIFEST_TOO_LARGE,
            f"the manifest is {len(content)} bytes; at most {MANIFEST_MAX} are taken",
            hint="move large annotations into a blob of an artifact that refers to the image",
        )
    document = _parse(content)
    named = _text(document, "mediaType", "mediaType")
    kind = _decide_media_type(document, media_type, named, must_be_typed)
    if kind in _SCHEMA_1 or _version(document) == 1:
        raise Failure(
            Code.UNSUPPORTED,
            "Docker manifests of schema 1 are not supported",
            hint="push the image with a Docker of this decade",
        )
    if kind in (OCI_IMAGE, DOCKER_IMAGE):
        return _read_image(document, kind)
    if kind in (OCI_INDEX, DOCKER_LIST):
        return _read_index(document, kind)
    if kind == OCI_ARTIFACT:
        return _read_artifact(document)
    return ManifestFacts(
        kind=ImageKind.OTHER,
        media_type=kind,
        artifact_type=_text(document, "artifactType", "artifactType"),
        config_media_type=None,
        blobs=(),
        children=(),
        subject=_subject(document),
        annotations=_annotations(document, "annotations"),
        image_size=0,
    )


def _read_image(document: Mapping[str, Any], media_type: str) -> ManifestFacts:
    """https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md"""
    _require_schema_2(document)
    _forbid(document, ("manifests", "fsLayers", "blobs"), "an image manifest")
    if document.get("config") is None:
        _invalid("config", "is missing")
    config = _descriptor(document["config"], "config")
    layers = [_descriptor(item, f"layers[{at}]") for at, item in enumerate(_list(document, "layers"))]
    own = [layer for layer in layers if not _is_foreign(layer)]
    artifact_type = _text(document, "artifactType", "artifactType")
    is_image = config["mediaType"] in _IMAGE_CONFIGS and artifact_type is None
    return ManifestFacts(
        kind=ImageKind.IMAGE if is_image else ImageKind.ARTIFACT,
        media_type=media_type,
        artifact_type=artifact_type,
        config_media_type=config["mediaType"],
        blobs=_distinct([config, *own]),
        children=(),
        subject=_subject(document),
        annotations=_annotations(document, "annotations"),
        image_size=sum(layer["size"] for layer in own),
        blob_types=_types([config, *own]),
    )


def _read_index(document: Mapping[str, Any], media_type: str) -> ManifestFacts:
    """https://github.com/opencontainers/image-spec/blob/v1.1.1/image-index.md"""
    _require_schema_2(document)
    _forbid(document, ("config", "layers", "fsLayers", "blobs"), "an index")
    children = [_descriptor(item, f"manifests[{at}]") for at, item in enumerate(_list(document, "manifests"))]
    return ManifestFacts(
        kind=ImageKind.INDEX,
        media_type=media_type,
        artifact_type=_text(document, "artifactType", "artifactType"),
        config_media_type=None,
        blobs=(),
        children=tuple(digest for digest, _ in _distinct(children)),
        subject=_subject(document),
        annotations=_annotations(document, "annotations"),
        image_size=0,
    )


def _read_artifact(document: Mapping[str, Any]) -> ManifestFacts:
    """https://github.com/opencontainers/image-spec/blob/v1.1.0-rc2/artifact.md (withdrawn; old clients push it)"""
    _forbid(document, ("config", "layers", "manifests", "fsLayers"), "an artifact manifest")
    blobs = [_descriptor(item, f"blobs[{at}]") for at, item in enumerate(_list(document, "blobs"))]
    own = [blob for blob in blobs if not _is_foreign(blob)]
    return ManifestFacts(
        kind=ImageKind.ARTIFACT,
        media_type=OCI_ARTIFACT,
        artifact_type=_text(document, "artifactType", "artifactType"),
        config_media_type=None,
        blobs=_distinct(own),
        children=(),
        subject=_subject(document),
        annotations=_annotations(document, "annotations"),
        image_size=sum(blob["size"] for blob in own),
        blob_types=_types(own),
    )


def _parse(content: bytes) -> dict[str, Any]:
    _check_depth(content)
    try:
        document = json.loads(content.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError:
        raise Failure(Code.MANIFEST_INVALID, "the manifest is not UTF-8") from None
    except ValueError as error:
        raise Failure(Code.MANIFEST_INVALID, f"the manifest is not JSON: {str(error)[:120]}") from None
    if not isinstance(document, dict):
        raise Failure(Code.MANIFEST_INVALID, "the manifest is not a JSON object")
    return document


def _check_depth(content: bytes) -> None:
    """Refuse deep nesting before the parser recurses: each pass takes the innermost brackets away, at C's speed."""
    brackets = _STRING.sub(b"", content).translate(None, _NOT_BRACKETS)
    for _ in range(DEPTH_MAX):
        if not brackets:
            return
        outer = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(outer) == len(brackets):
            break
        brackets = outer
    if brackets:
        raise Failure(
            Code.MANIFEST_INVALID,
            f"the manifest is nested deeper than {DEPTH_MAX} levels, or its brackets do not match",
        )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise Failure(Code.MANIFEST_INVALID, f"the key {key[:80]!r} appears twice in one object")
            seen.add(key)
    return found


def _constant(name: str) -> NoReturn:
    raise Failure(Code.MANIFEST_INVALID, f"the manifest is not JSON: {name} is not a JSON number")


def _decide_media_type(document: Mapping[str, Any], header: str | None, named: str | None, must_be_typed: bool) -> str:
    """What came with it and the `mediaType` field must agree."""
    given = header.partition(";")[0].strip() if header else ""
    if named is not None and not _MEDIA_TYPE.fullmatch(named):
        _invalid("mediaType", "is not a media type")
    if given:
        if not _MEDIA_TYPE.fullmatch(given):
            raise Failure(Code.MANIFEST_INVALID, f"the Content-Type {given[:80]!r} is not a media type")
        if named is not None and named != given:
            _invalid("mediaType", f"is {named[:120]!r}, but the Content-Type says {given[:120]!r}")
        return given
    if named is not None:
        return named
    if must_be_typed:
        why = "image manifest mediatype not provided in manifest or parameter"  # ECR's text
        raise Failure(Code.MANIFEST_INVALID, why, field="mediaType")
    if "manifests" in document:
        return OCI_INDEX
    if "config" in document:
        return OCI_IMAGE
    _invalid("mediaType", "is missing, and there is no Content-Type")


def _require_schema_2(document: Mapping[str, Any]) -> None:
    if _version(document) != 2:
        _invalid("schemaVersion", "must be 2")


def _version(document: Mapping[str, Any]) -> int | None:
    version = document.get("schemaVersion")
    return version if isinstance(version, int) and not isinstance(version, bool) else None


def _forbid(document: Mapping[str, Any], keys: Iterable[str], what: str) -> None:
    """A document that reads as two kinds is refused (CVE-2021-41190)."""
    for key in keys:
        if document.get(key):
            _invalid(key, f"does not belong in {what}")


def _descriptor(value: object, field: str) -> dict[str, Any]:
    """https://github.com/opencontainers/image-spec/blob/v1.1.1/descriptor.md"""
    if not isinstance(value, dict):
        _invalid(field, "is not a descriptor")
    if not _text(value, "mediaType", f"{field}.mediaType"):
        _invalid(f"{field}.mediaType", "is missing")
    digest = _text(value, "digest", f"{field}.digest")
    if digest is None:
        _invalid(f"{field}.digest", "is missing")
    try:
        parse_digest(digest)
    except Failure as failure:
        _invalid(f"{field}.digest", f"is wrong: {failure.message}")
    size = value.get("size")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= _SIZE_MAX:
        _invalid(f"{field}.size", "must be a whole number of bytes")
    for at, url in enumerate(_list(value, "urls", f"{field}.urls")):
        if not isinstance(url, str):
            _invalid(f"{field}.urls[{at}]", "is not a string")
    _annotations(value, f"{field}.annotations")
    return value


def _is_foreign(layer: Mapping[str, Any]) -> bool:
    return bool(layer.get("urls")) or layer["mediaType"].startswith(_FOREIGN)


def _distinct(descriptors: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, int], ...]:
    sizes: dict[str, int] = {}
    for descriptor in descriptors:
        digest, size = descriptor["digest"], descriptor["size"]
        if sizes.setdefault(digest, size) != size:
            raise Failure(Code.MANIFEST_INVALID, f"{digest} is named with two sizes, {sizes[digest]} and {size}")
    return tuple(sizes.items())


def _types(descriptors: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {descriptor["digest"]: descriptor["mediaType"] for descriptor in descriptors}


def _subject(document: Mapping[str, Any]) -> str | None:
    if document.get("subject") is None:
        return None
    digest: str = _descriptor(document["subject"], "subject")["digest"]
    return digest


def _annotations(value: Mapping[str, Any], field: str) -> dict[str, str] | None:
    found = value.get("annotations")
    if found is None:
        return None
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        _invalid(field, "must map strings to strings")
    return found


def _list(value: Mapping[str, Any], key: str, field: str | None = None) -> list[Any]:
    """Absent and null read as empty: Go writes null for a slice that nobody filled."""
    found = value.get(key)
    if found is None:
        return []
    if not isinstance(found, list):
        _invalid(field or key, "is not a list")
    return found


def _text(value: Mapping[str, Any], key: str, field: str) -> str | None:
    """An absent, null or empty string reads as None."""
    found = value.get(key)
    if found is None or found == "":
        return None
    if not isinstance(found, str):
        _invalid(field, "is not a string")
    return found


def _invalid(field: str, why: str) -> NoReturn:
    raise Failure(Code.MANIFEST_INVALID, f"{field} {why}", field=field)
