"""A registry beside a model of it: each answer of the one is held against what the other says of it.

`look` and its like ask everything that there is to know of a repository, at both doors. Here too are the layers and
manifests of which both are made, small and few, so that what is done meets what was done before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from support.both_protocols import BothProtocols
from support.small_registry import (
    Manifest,
    Reason,
    Reasons,
    Repository,
    SmallRegistry,
    digest_of,
    image,
    index,
    subject,
)

Answered = TypeVar("Answered")
PAGE = 2

CONFIG, ONE, TWO = b"{}", b"one layer", bytes(range(256)) * 40  # of which the last has three frames
LAYERS = (CONFIG, ONE, TWO)
DIGESTS = {digest_of(each): each for each in LAYERS}
SBOM = "application/vnd.example.sbom"


def manifests() -> Sequence[Manifest]:
    app = image([ONE], CONFIG)
    other = image([ONE, TWO], CONFIG, docker=True)
    both = index(app, other)
    return (
        app,
        other,
        both,
        index(both, app),
        image([TWO], CONFIG, subject=subject(app.content), artifactType=SBOM, annotations={"by": "ann"}),
        index(other, subject=subject(app.content), artifactType=SBOM),
    )


MANIFESTS = {each.digest: each for each in manifests()}
ABSENT = digest_of(b"absent")


class Beside:
    """`model` is what `doors` lead to. `met` are the reasons that were told."""

    def __init__(self, doors: BothProtocols, run: Callable[[Awaitable[Any]], Any]) -> None:
        """`run` sees one thing asked through."""
        self.doors = doors
        self.met: Reasons = set()
        self.model = SmallRegistry()
        self._run = run

    def ask(self, asked: Awaitable[Answered]) -> Answered:
        answered: Answered = self._run(asked)
        return answered

    def api(self, operation: str, **parameters: Any) -> tuple[str, dict[str, Any]]:
        return self.ask(self.doors.api(operation, **parameters))

    def agree(self, word: str, reasons: Reasons, *, in_parts: bool) -> None:
        self.met |= reasons
        expected = {reason.value[0 if in_parts else 1] for reason in reasons} or {""}
        assert word in expected, f"{word or 'done'}, and not {reasons or 'done'}"

    def agree_api(self, word: str, reasons: Reasons) -> None:
        self.agree(word, reasons, in_parts=True)

    def agree_oci(self, word: str, reasons: Reasons) -> None:
        self.agree(word, reasons, in_parts=False)

    def list_repositories(self, page: int) -> None:
        there = sorted(self.model.repositories)
        word, described = self.ask(self.doors.api_pages("DescribeRepositories", "repositories", page))
        assert (word, [each["repositoryName"] for each in described]) == ("", there)
        for each in described:
            repository = self.model.repositories[each["repositoryName"]]
            assert each.items() >= setting(repository.mode, repository.filters).items()
        assert self.ask(self.doors.oci_pages("_catalog", "repositories", page)) == ("", there)

    def look(self, name: str) -> None:
        """The repository at both doors is the model's, and what is not in the model is nowhere."""
        there = self.model.repositories.get(name)
        word, listed = self.ask(self.doors.api_pages("ListImages", "imageIds", PAGE, repositoryName=name))
        oci_word, tags = self.ask(self.doors.oci_pages(f"{name}/tags/list", "tags", PAGE))
        if there is None:
            self.agree_api(word, {Reason.REPOSITORY_UNKNOWN})
            self.agree_oci(oci_word, {Reason.REPOSITORY_UNKNOWN})
            return
        of_tags = [image_id(digest, tag) for tag, digest in sorted(there.tags.items())]
        untagged = [image_id(digest, "") for digest in there.untagged()]
        assert (word, listed) == ("", of_tags + untagged)
        assert (oci_word, tags) == ("", sorted(there.tags))
        for status, wanted in (("TAGGED", of_tags), ("UNTAGGED", untagged)):
            _, answer = self.api("ListImages", repositoryName=name, filter={"tagStatus": status})
            assert answer == {"imageIds": wanted}
        self.look_at_images(name, there)

    def look_at_images(self, name: str, there: Repository) -> None:
        word, details = self.ask(self.doors.api_pages("DescribeImages", "imageDetails", PAGE, repositoryName=name))
        assert word == ""
        for each in details:
            pushed_at = each.pop("imagePushedAt")
            assert there.pushed.setdefault(each["imageDigest"], pushed_at) == pushed_at, "it came once"
        assert details == [detail(each, name, there) for _, each in sorted(there.images.items())]
        ids = [image_id(digest, "") for digest in MANIFESTS]
        word, batch = self.api("BatchGetImage", repositoryName=name, imageIds=ids)
        assert word == ""
        pulled = {each["imageId"]["imageDigest"]: each["imageManifest"].encode() for each in batch["images"]}
        assert pulled == {digest: each.content for digest, each in there.images.items()}
        absent = {each["imageId"]["imageDigest"]: each["failureCode"] for each in batch["failures"]}
        assert absent == dict.fromkeys(MANIFESTS.keys() - there.images.keys(), "ImageNotFound")
        for digest, manifest in MANIFESTS.items():
            oci_word, answer = self.ask(self.doors.oci("GET", f"{name}/manifests/{digest}"))
            if digest in there.images:
                assert oci_word == ""
                assert (answer.body, answer.headers["content-type"]) == (manifest.content, manifest.media_type)
            else:
                self.agree_oci(oci_word, {Reason.IMAGE_UNKNOWN})

    def look_at_layers(self, name: str) -> None:
        there = self.model.repositories.get(name)
        word, answer = self.api("BatchCheckLayerAvailability", repositoryName=name, layerDigests=[*DIGESTS])
        self.agree_api(word, {Reason.REPOSITORY_UNKNOWN} if there is None else set())
        if there is not None:
            sizes = {each["layerDigest"]: each.get("layerSize") for each in answer["layers"]}
            assert sizes == {digest: len(of) if digest in there.layers else None for digest, of in DIGESTS.items()}

    def counters_stand(self) -> None:
        there = self.model.repositories
        of_images = {
            (name, digest): len(each.tags_of(digest)) for name, each in there.items() for digest in each.images
        }
        counted = len(there), {name: len(each.images) for name, each in there.items()}, of_images
        assert self.doors.counters() == counted


def setting(mode: str, filters: Sequence[str]) -> dict[str, Any]:
    excluding = [{"filterType": "WILDCARD", "filter": each} for each in filters]
    return {"imageTagMutability": mode} | ({"imageTagMutabilityExclusionFilters": excluding} if excluding else {})


def image_id(digest: str, tag: str) -> dict[str, str]:
    return ({"imageDigest": digest} if digest else {}) | ({"imageTag": tag} if tag else {})


def key_of(image_id: dict[str, str]) -> tuple[str, str]:
    return image_id.get("imageDigest", ""), image_id.get("imageTag", "")


def detail(manifest: Manifest, name: str, there: Repository) -> dict[str, Any]:
    told: dict[str, Any] = {
        "registryId": "123456789012",
        "repositoryName": name,
        "imageDigest": manifest.digest,
        "imageTags": there.tags_of(manifest.digest),
        "imageSizeInBytes": there.size(manifest),
        "imageManifestMediaType": manifest.media_type,
        "artifactMediaType": manifest.artifact_type,
        "subjectManifestDigest": manifest.subject,
        "imageStatus": "ACTIVE",
    }
    return {member: value for member, value in told.items() if value not in (None, [])}


def descriptor(manifest: Manifest) -> dict[str, Any]:
    told = {
        "mediaType": manifest.media_type,
        "digest": manifest.digest,
        "size": len(manifest.content),
        "artifactType": manifest.artifact_type,
        "annotations": manifest.annotations,
    }
    return {member: value for member, value in told.items() if value is not None}
