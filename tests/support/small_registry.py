"""A registry in a page: repositories, layers, manifests, tags and open uploads as dicts, and what is to be said of each
request. It knows nothing of how a real one does it, so that a real one can be held against it.

Each method that may refuse returns its reasons, of which an answer must name one; without any, what was asked is done.
Source: Amazon ECR API Reference and User Guide; OCI Distribution 1.1.1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any

REPOSITORIES_MAX, IMAGES_MAX, TAGS_MAX = 3, 5, 2  # in a registry, in a repository, of an image
PART_MIN, PARTS_MAX = 4, 3  # bytes of each part but the last, parts of a layer

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."


class Reason(Enum):
    """Why not: ECR's error or failure code, and status and code at docker's door; None where it cannot come up."""

    REPOSITORY_UNKNOWN = ("RepositoryNotFoundException", "404 NAME_UNKNOWN")
    REPOSITORY_THERE = ("RepositoryAlreadyExistsException", None)
    REPOSITORY_NOT_EMPTY = ("RepositoryNotEmptyException", None)
    TOO_MANY = ("LimitExceededException", "403 DENIED")
    NEEDED_LAYERS = ("LayersNotFoundException", "400 MANIFEST_BLOB_UNKNOWN")
    NEEDED_IMAGES = ("ReferencedImagesNotFoundException", "400 MANIFEST_BLOB_UNKNOWN")
    TAG_IMMUTABLE = ("ImageTagAlreadyExistsException", "400 TAG_INVALID")
    IMAGE_THERE = ("ImageAlreadyExistsException", None)
    IMAGE_UNKNOWN = ("ImageNotFound", "404 MANIFEST_UNKNOWN")
    IMAGE_IN_INDEX = ("ImageReferencedByManifestList", "409 UNSUPPORTED")
    OTHER_IMAGE = ("ImageTagDoesNotMatchDigest", None)
    LAYER_UNKNOWN = ("LayersNotFoundException", "404 BLOB_UNKNOWN")
    LAYER_IN_USE = (None, "409 UNSUPPORTED")
    LAYER_OF_NO_IMAGE = ("LayerInaccessibleException", None)
    LAYER_THERE = ("LayerAlreadyExistsException", None)
    OTHER_LAYER = ("InvalidLayerException", "400 DIGEST_INVALID")
    UPLOAD_UNKNOWN = ("UploadNotFoundException", "404 BLOB_UPLOAD_UNKNOWN")
    UPLOAD_EMPTY = ("EmptyUploadException", None)
    PART_MISPLACED = ("InvalidLayerPartException", "416 BLOB_UPLOAD_INVALID")
    PART_SMALL = ("LayerPartTooSmallException", None)


Reasons = set[Reason]


def digest_of(content: bytes) -> str:
    return f"sha256:{sha256(content).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """`needs` are digests of its config and layers, `lists` those of an index's manifests; `size` is of an image's
    layers, None of an index."""

    content: bytes = field(repr=False)
    media_type: str
    artifact_type: str | None
    needs: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    subject: str | None = None
    size: int | None = None
    annotations: Mapping[str, str] | None = None

    @property
    def digest(self) -> str:
        return digest_of(self.content)


def image(layers: Sequence[bytes], config: bytes, *, docker: bool = False, **more: Any) -> Manifest:
    """`more` are members of the document besides; `config_type` is not of an image but of an artifact."""
    kind = f"{DOCKER}distribution.manifest.v2+json" if docker else f"{OCI}manifest.v1+json"
    of_config = f"{DOCKER}container.image.v1+json" if docker else f"{OCI}config.v1+json"
    of_config = more.pop("config_type", of_config)
    of_layer = f"{DOCKER}image.rootfs.diff.tar.gzip" if docker else f"{OCI}layer.v1.tar+gzip"
    document = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": _descriptor(of_config, config),
        "layers": [_descriptor(of_layer, layer) for layer in layers],
        **more,
    }
    needs = tuple(digest_of(each) for each in (config, *layers))
    size = sum(len(layer) for layer in layers)
    return _manifest(document, more.get("artifactType") or of_config, needs=needs, size=size)


def index(*children: Manifest, **more: Any) -> Manifest:
    listed = [_descriptor(child.media_type, child.content) for child in children]
    document = {"schemaVersion": 2, "mediaType": f"{OCI}index.v1+json", "manifests": listed, **more}
    return _manifest(document, more.get("artifactType"), lists=tuple(child.digest for child in children))


def subject(of: bytes) -> Mapping[str, Any]:
    return _descriptor(f"{OCI}manifest.v1+json", of)


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}


def _manifest(document: Mapping[str, Any], artifact_type: str | None, **info: Any) -> Manifest:
    of = document.get("subject")
    content = json.dumps(document).encode()
    info |= {"subject": of and of["digest"], "annotations": document.get("annotations")}
    return Manifest(content, document["mediaType"], artifact_type, **info)


@dataclass(slots=True)
class Repository:
    """`pushed` is when each image says that it came, once it was asked."""

    mode: str
    filters: tuple[str, ...]
    layers: set[str] = field(default_factory=set)
    images: dict[str, Manifest] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pushed: dict[str, float] = field(default_factory=dict)

    def tags_of(self, digest: str) -> list[str]:
        return sorted(tag for tag, tagged in self.tags.items() if tagged == digest)

    def untagged(self) -> list[str]:
        return sorted(self.images.keys() - self.tags.values())

    def uses(self, layer: str) -> bool:
        return any(layer in each.needs for each in self.images.values())

    def size(self, manifest: Manifest) -> int:
        """Of an index that of its largest manifest."""
        if manifest.size is not None:
            return manifest.size
        return max((self.size(self.images[child]) for child in manifest.lists), default=0)

    def referrers(self, digest: str) -> list[Manifest]:
        found = [each for each in self.images.values() if each.subject == digest]
        return sorted(found, key=lambda each: each.digest)

    def stays(self, tag: str) -> bool:
        """Whether the tag may not be moved, once it is there."""
        excluded = any(fnmatchcase(tag, pattern) for pattern in self.filters)
        return tag in self.tags and self.mode.startswith("IMMUTABLE") != excluded

    def named(self, digest: str, tag: str) -> str | Reason:
        """The digest of what both name, or why there is none; one of them may be empty."""
        found = self.tags.get(tag, "") if tag else digest
        if found not in self.images:
            return Reason.IMAGE_UNKNOWN
        return found if digest in ("", found) else Reason.OTHER_IMAGE

    def remove(self, digest: str) -> Reasons:
        if any(digest in each.lists for each in self.images.values()):
            return {Reason.IMAGE_IN_INDEX}
        del self.images[digest]
        self.pushed.pop(digest, None)
        self.tags = {tag: tagged for tag, tagged in self.tags.items() if tagged != digest}
        return set()


@dataclass(slots=True)
class Upload:
    """`parts` are the lengths of what came through the API, None of an upload at docker's door."""

    repository: str
    parts: list[int] | None
    content: bytes = b""
    committed: str = ""


class SmallRegistry:
    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.uploads: dict[str, Upload] = {}
        self.mounts = True

    # ---- repositories ----------------------------------------------------------------------------------------------
    def create(self, name: str, mode: str = "MUTABLE", filters: Sequence[str] = ()) -> Reasons:
        if name in self.repositories:
            return {Reason.REPOSITORY_THERE}
        if len(self.repositories) == REPOSITORIES_MAX:
            return {Reason.TOO_MANY}
        self.repositories[name] = Repository(mode, tuple(filters))
        return set()

    def configure(self, name: str, mode: str, filters: Sequence[str]) -> Reasons:
        if name not in self.repositories:
            return {Reason.REPOSITORY_UNKNOWN}
        self.repositories[name].mode, self.repositories[name].filters = mode, tuple(filters)
        return set()

    def delete(self, name: str, *, force: bool) -> Reasons:
        if name not in self.repositories:
            return {Reason.REPOSITORY_UNKNOWN}
        if self.repositories[name].images and not force:
            return {Reason.REPOSITORY_NOT_EMPTY}
        del self.repositories[name]
        self.uploads = {key: each for key, each in self.uploads.items() if each.repository != name}
        return set()

    def _made_by_push(self, name: str) -> Reasons:
        return set() if name in self.repositories else self.create(name)

    # ---- layers ----------------------------------------------------------------------------------------------------
    def push_layer(self, name: str, content: bytes) -> Reasons:
        """In one request, at docker's door."""
        reasons = self._made_by_push(name)
        if not reasons:
            self.repositories[name].layers.add(digest_of(content))
        return reasons

    def mount(self, name: str, layer: str, source: str | None) -> tuple[bool, Reasons]:
        """Whether it is there then. Otherwise an upload has been begun."""
        sources = self.repositories if source is None else [source] if source in self.repositories else []
        is_there = self.mounts and any(layer in self.repositories[each].layers for each in sources)
        reasons = self._made_by_push(name)
        if is_there and not reasons:
            self.repositories[name].layers.add(layer)
        return is_there, reasons

    def delete_layer(self, name: str, layer: str) -> Reasons:
        if name not in self.repositories:
            return {Reason.REPOSITORY_UNKNOWN}
        repository = self.repositories[name]
        if layer not in repository.layers:
            return {Reason.LAYER_UNKNOWN}
        if repository.uses(layer):
            return {Reason.LAYER_IN_USE}
        repository.layers.remove(layer)
        return set()

    # ---- uploads ---------------------------------------------------------------------------------------------------
    def begin(self, name: str, *, in_parts: bool) -> Reasons:
        if not in_parts:
            return self._made_by_push(name)
        return set() if name in self.repositories else {Reason.REPOSITORY_UNKNOWN}

    def begun(self, key: str, name: str, *, in_parts: bool) -> None:
        self.uploads[key] = Upload(name, [] if in_parts else None)

    def append(self, key: str, name: str, start: int, content: bytes, *, in_parts: bool) -> Reasons:
        """The last part come again changes nothing."""
        upload = self._upload(key, name, in_parts=in_parts)
        if isinstance(upload, set):
            return upload
        if upload.committed:
            return {Reason.UPLOAD_UNKNOWN}
        if upload.parts and start == len(upload.content) - upload.parts[-1] and upload.content[start:] == content:
            return set()
        if start != len(upload.content):
            return {Reason.PART_MISPLACED}
        if upload.parts is not None:
            if len(upload.parts) == PARTS_MAX:
                return {Reason.TOO_MANY}
            upload.parts.append(len(content))
        upload.content += content
        return set()

    def finish(self, key: str, name: str, layer: str, *, in_parts: bool) -> Reasons:
        """Asked again, it says the same as long as the layer is there."""
        upload = self._upload(key, name, in_parts=in_parts)
        if isinstance(upload, set):
            return upload
        layers = self.repositories[upload.repository].layers
        if upload.committed:
            return set() if upload.committed == layer and layer in layers else {Reason.UPLOAD_UNKNOWN}
        reasons: Reasons = set()
        if upload.parts is not None:
            reasons |= {Reason.UPLOAD_EMPTY} if not upload.parts else set()
            reasons |= {Reason.PART_SMALL} if any(length < PART_MIN for length in upload.parts[:-1]) else set()
        if digest_of(upload.content) != layer:
            reasons |= {Reason.OTHER_LAYER}
        if reasons:
            return reasons
        upload.committed = layer
        if in_parts and layer in layers:
            return {Reason.LAYER_THERE}
        layers.add(layer)
        return set()

    def cancel(self, key: str, name: str) -> Reasons:
        upload = self.uploads.get(key)
        if name not in self.repositories:
            return {Reason.REPOSITORY_UNKNOWN}
        if upload is None or upload.committed or upload.repository != name:
            return {Reason.UPLOAD_UNKNOWN}
        del self.uploads[key]
        return set()

    def _upload(self, key: str, name: str, *, in_parts: bool) -> Upload | Reasons:
        """That upload, by the door that it was begun at."""
        upload = self.uploads.get(key)
        if name not in self.repositories:
            return {Reason.REPOSITORY_UNKNOWN}
        if upload is None or upload.repository != name or (upload.parts is not None) is not in_parts:
            return {Reason.UPLOAD_UNKNOWN}
        return upload

    # ---- images ----------------------------------------------------------------------------------------------------
    def put(self, name: str, manifest: Manifest, tags: Iterable[str]) -> Reasons:
        """At docker's door, where the same again is no mistake."""
        was_there = name in self.repositories
        made = self._made_by_push(name)
        if made:
            return made
        repository, digest, wanted = self.repositories[name], manifest.digest, set(tags)
        reasons: Reasons = set()
        if digest not in repository.images:
            reasons |= {Reason.NEEDED_LAYERS} if set(manifest.needs) - repository.layers else set()
            reasons |= {Reason.NEEDED_IMAGES} if set(manifest.lists) - repository.images.keys() else set()
            reasons |= {Reason.TOO_MANY} if len(repository.images) == IMAGES_MAX else set()
        reasons |= {Reason.TAG_IMMUTABLE} if any(repository.stays(tag) for tag in wanted) else set()
        if wanted - set(repository.tags_of(digest)) and len(wanted | set(repository.tags_of(digest))) > TAGS_MAX:
            reasons |= {Reason.TOO_MANY}
        if not reasons:
            repository.images[digest] = manifest
            repository.tags |= dict.fromkeys(wanted, digest)
        elif not was_there:
            del self.repositories[name]
        return reasons

    def put_image(self, name: str, manifest: Manifest, tag: str | None) -> Reasons:
        if name not in self.repositories:
            return {Reason.REPOSITORY_UNKNOWN}
        repository, digest = self.repositories[name], manifest.digest
        if digest in repository.images and (tag is None or repository.tags.get(tag) == digest):
            stays = tag is not None and repository.stays(tag)
            return {Reason.TAG_IMMUTABLE if stays else Reason.IMAGE_THERE}
        return self.put(name, manifest, [] if tag is None else [tag])

    def delete_manifest(self, name: str, reference: str) -> Reasons:
        """At docker's door: of a tag its image stays, as OCI has it."""
        if name not in self.repositories:
            return {Reason.REPOSITORY_UNKNOWN}
        repository = self.repositories[name]
        if reference in repository.images:
            return repository.remove(reference)
        if reference not in repository.tags:
            return {Reason.IMAGE_UNKNOWN}
        del repository.tags[reference]
        return set()

    def batch_delete(
        self, name: str, wanted: Sequence[tuple[str, str]]
    ) -> tuple[set[tuple[str, str]], dict[tuple[str, str], Reason]]:
        """(digest, tag) of what went, and why the rest did not. An image and its index may come in any order: none goes
        before an index of the same batch that lists it, and else they go as they come."""
        repository = self.repositories[name]
        gone: set[tuple[str, str]] = set()
        left: dict[tuple[str, str], Reason] = {}
        first = {key: repository.named(*key) for key in wanted}
        lists = {found: repository.images[found].lists for found in first.values() if isinstance(found, str)}

        def depth(found: str | Reason) -> int:
            return max((1 + depth(index) for index, listed in lists.items() if found in listed), default=0)

        for key in sorted(wanted, key=lambda each: depth(first[each])):
            found, tag = repository.named(*key), key[1]
            if isinstance(found, Reason):
                left[key] = found
                continue
            held = repository.tags_of(found)
            if tag and held != [tag]:
                del repository.tags[tag]
                held = [tag]
            elif repository.remove(found):
                left[key] = Reason.IMAGE_IN_INDEX
                continue
            gone |= {(found, each) for each in held or [""]}
        return gone, left
