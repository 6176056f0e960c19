"""Both doors of a whole registry against a model of it in a page (`fakes/small_registry`): whatever is pushed, tagged,
moved, mounted, listed and deleted, in whatever order and at which door, each answer is the model's.

After each step the repository that it was about is listed at both doors and pulled by digest, and the counters that
quotas go by are counted. `--model-runs` says how many runs of 25 steps; they are the same each time, unless
`--fuzz-seed` says otherwise. `make fuzz` makes more of them.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop
from fakes.small_registry import (
    OCI,
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
from fakes.two_doors import TwoDoors, two_doors
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from harness.logs import log_to

Answered = TypeVar("Answered")
STEPS = 25
PAGE = 2

CONFIG, ONE, TWO = b"{}", b"one layer", bytes(range(256)) * 40  # of which the last has three frames
LAYERS = (CONFIG, ONE, TWO)
DIGESTS = {digest_of(each): each for each in LAYERS}
SBOM = "application/vnd.example.sbom"


def _manifests() -> Sequence[Manifest]:
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


MANIFESTS = {each.digest: each for each in _manifests()}
ABSENT = digest_of(b"absent")

NAMES = st.sampled_from([*["team/a"] * 6, *["bb"] * 2, "c/d/e", "ff"])  # the first the more often
TAGS = st.sampled_from(["v1", "v2", "dev"])
LAYER = st.sampled_from(LAYERS)
MANIFEST = st.sampled_from(list(MANIFESTS.values()))
MODES = st.sampled_from(
    [
        ("MUTABLE", ()),
        ("MUTABLE", ()),
        ("IMMUTABLE", ()),
        ("IMMUTABLE_WITH_EXCLUSION", ("dev*",)),
        ("MUTABLE_WITH_EXCLUSION", ("v*1", "dev")),
    ]
)
SIZES = st.sampled_from([2, 5, 5000, 100_000])
PLACES = st.sampled_from([0, 0, 0, 0, -1, 1])  # of a piece: where it belongs, or beside that
REFERENCE = st.one_of(TAGS, st.sampled_from([*MANIFESTS, ABSENT]))


def _setting(mode: str, filters: Sequence[str]) -> dict[str, Any]:
    excluding = [{"filterType": "WILDCARD", "filter": each} for each in filters]
    return {"imageTagMutability": mode} | ({"imageTagMutabilityExclusionFilters": excluding} if excluding else {})


class BothDoors(RuleBasedStateMachine):
    """One run: begins and ends with an empty registry."""

    uploads: Bundle[tuple[str, str, bool]] = Bundle("uploads")

    def __init__(self, doors: TwoDoors, run: Callable[[Awaitable[Any]], Any], met: set[Reason]) -> None:
        super().__init__()
        self.doors = doors
        self.met = met
        self._run = run
        self.model = SmallRegistry()

    def _ask(self, asked: Awaitable[Answered]) -> Answered:
        answered: Answered = self._run(asked)
        return answered

    def _api(self, operation: str, **parameters: Any) -> tuple[str, dict[str, Any]]:
        return self._ask(self.doors.api(operation, **parameters))

    def _agree(self, word: str, reasons: Reasons, *, in_parts: bool) -> None:
        self.met |= reasons
        expected = {reason.value[0 if in_parts else 1] for reason in reasons} or {""}
        assert word in expected, f"{word or 'done'}, and not {reasons or 'done'}"

    def _agree_api(self, word: str, reasons: Reasons) -> None:
        self._agree(word, reasons, in_parts=True)

    def _agree_oci(self, word: str, reasons: Reasons) -> None:
        self._agree(word, reasons, in_parts=False)

    # ---- repositories ----------------------------------------------------------------------------------------------
    @initialize(mode=MODES, pushed=st.lists(st.tuples(MANIFEST, TAGS), max_size=3))
    def begin(self, mode: tuple[str, Sequence[str]], pushed: list[tuple[Manifest, str]]) -> None:
        """Most runs begin with something in a repository."""
        self.create_repository("team/a", mode)
        for manifest, tag in pushed:
            self.push_whole("team/a", manifest, tag)

    @rule(name=NAMES, mode=MODES)
    def create_repository(self, name: str, mode: tuple[str, Sequence[str]]) -> None:
        word, answer = self._api("CreateRepository", repositoryName=name, **_setting(*mode))
        self._agree_api(word, self.model.create(name, *mode))
        assert word or answer["repository"].items() >= {"repositoryName": name, **_setting(*mode)}.items()
        self._look(name)

    @rule(name=NAMES, force=st.booleans())
    def delete_repository(self, name: str, force: bool) -> None:
        word, _ = self._api("DeleteRepository", repositoryName=name, force=force)
        self._agree_api(word, self.model.delete(name, force=force))
        self._look(name)

    @rule(name=NAMES, mode=MODES)
    def change_mutability(self, name: str, mode: tuple[str, Sequence[str]]) -> None:
        word, answer = self._api("PutImageTagMutability", repositoryName=name, **_setting(*mode))
        self._agree_api(word, self.model.configure(name, *mode))
        assert word or answer.items() >= _setting(*mode).items()

    @rule(on=st.booleans())
    def let_mount(self, on: bool) -> None:
        word, _ = self._api("PutAccountSetting", name="BLOB_MOUNTING", value="ENABLED" if on else "DISABLED")
        self._agree_api(word, set())
        self.model.mounts = on

    @rule(page=st.integers(1, 3))
    def list_repositories(self, page: int) -> None:
        there = sorted(self.model.repositories)
        word, described = self._ask(self.doors.api_pages("DescribeRepositories", "repositories", page))
        assert (word, [each["repositoryName"] for each in described]) == ("", there)
        for each in described:
            repository = self.model.repositories[each["repositoryName"]]
            assert each.items() >= _setting(repository.mode, repository.filters).items()
        assert self._ask(self.doors.oci_pages("_catalog", "repositories", page)) == ("", there)

    # ---- layers ----------------------------------------------------------------------------------------------------
    @rule(name=NAMES, content=LAYER)
    def push_layer(self, name: str, content: bytes) -> None:
        """In one request."""
        word, _ = self._ask(self.doors.oci("POST", f"{name}/blobs/uploads/?digest={digest_of(content)}", content))
        self._agree_oci(word, self.model.push_layer(name, content))

    @rule(name=NAMES, content=LAYER, source=st.one_of(st.none(), NAMES))
    def mount(self, name: str, content: bytes, source: str | None) -> None:
        digest = digest_of(content)
        origin = "" if source is None else f"&from={source}"
        word, answer = self._ask(self.doors.oci("POST", f"{name}/blobs/uploads/?mount={digest}{origin}"))
        is_there, reasons = self.model.mount(name, digest, source)
        self._agree_oci(word, reasons)
        assert word or answer.status == (201 if is_there else 202)
        self._look_at_layers(name)

    @rule(name=NAMES, content=LAYER)
    def delete_layer(self, name: str, content: bytes) -> None:
        word, _ = self._ask(self.doors.oci("DELETE", f"{name}/blobs/{digest_of(content)}"))
        self._agree_oci(word, self.model.delete_layer(name, digest_of(content)))
        self._look_at_layers(name)

    @rule(name=NAMES, content=LAYER)
    def pull_layer(self, name: str, content: bytes) -> None:
        """At docker's door, and by a link, which is given of images' layers only."""
        digest = digest_of(content)
        there = self.model.repositories.get(name)
        word, answer = self._ask(self.doors.oci("GET", f"{name}/blobs/{digest}"))
        reasons = self._of_layer(there, digest)
        self._agree_oci(word, reasons)
        assert word or answer.body == content
        word, linked = self._api("GetDownloadUrlForLayer", repositoryName=name, layerDigest=digest)
        if there is not None and not reasons and not there.uses(digest):
            reasons = {Reason.LAYER_OF_NO_IMAGE}
        self._agree_api(word, reasons)
        assert word or self._ask(self.doors.linked(linked["downloadUrl"])) == content

    def _of_layer(self, there: Repository | None, digest: str) -> Reasons:
        if there is None:
            return {Reason.REPOSITORY_UNKNOWN}
        return set() if digest in there.layers else {Reason.LAYER_UNKNOWN}

    # ---- uploads ---------------------------------------------------------------------------------------------------
    @rule(target=uploads, name=NAMES, in_parts=st.booleans())
    def begin_upload(self, name: str, in_parts: bool) -> MultipleResults[tuple[str, str, bool]] | tuple[str, str, bool]:
        reasons = self.model.begin(name, in_parts=in_parts)
        word, key = self._ask(self.doors.begin_parts(name) if in_parts else self.doors.begin(name))
        self._agree(word, reasons, in_parts=in_parts)
        if word:
            return multiple()
        self.model.begun(key, name, in_parts=in_parts)
        return key, name, in_parts

    @rule(
        upload=uploads,
        content=LAYER,
        size=SIZES,
        off=PLACES,
        crossed=st.sampled_from([False] * 9 + [True]),
    )
    def append(self, upload: tuple[str, str, bool], content: bytes, size: int, off: int, crossed: bool) -> None:
        """A piece of what `content` has there, at its place or beside it; now and then at the other door."""
        key, name, in_parts = upload
        known = self.model.uploads.get(key)
        end = len(known.content) if known else 0
        start, piece = max(0, end + off), content[end : end + size] or b"more"
        in_parts = in_parts is not crossed
        reasons = self.model.append(key, name, start, piece, in_parts=in_parts)
        if in_parts:
            word, last = self._ask(self.doors.add_part(name, key, start, piece))
            if word in ("", "InvalidLayerPartException"):
                assert last == len(self.model.uploads[key].content) - 1
        else:
            word = self._ask(self.doors.append(name, key, start, piece))
        self._agree(word, reasons, in_parts=in_parts)

    @rule(
        target=uploads,
        name=NAMES,
        content=st.sampled_from([ONE, TWO]),
        in_parts=st.booleans(),
        pieces=st.lists(st.tuples(SIZES, PLACES), max_size=4),
        otherwise=st.one_of(st.none(), LAYER),
    )
    def upload_layer(
        self,
        name: str,
        content: bytes,
        in_parts: bool,
        pieces: list[tuple[int, int]],
        otherwise: bytes | None,
    ) -> MultipleResults[tuple[str, str, bool]] | tuple[str, str, bool]:
        """From its beginning to its end, which it does not always come to."""
        begun = self.begin_upload(name, in_parts)
        if isinstance(begun, tuple):
            for size, off in [*pieces, (100_000, 0)]:
                self.append(begun, content, size, off, False)
            self.finish_upload(begun, otherwise, False)
        return begun

    @rule(upload=uploads)
    def send_last_part_again(self, upload: tuple[str, str, bool]) -> None:
        key, name, _ = upload
        known = self.model.uploads.get(key)
        if known is None or not known.parts:
            return
        start = len(known.content) - known.parts[-1]
        reasons = self.model.append(key, name, start, known.content[start:], in_parts=True)
        word, _ = self._ask(self.doors.add_part(name, key, start, known.content[start:]))
        self._agree_api(word, reasons)

    @rule(upload=uploads, content=st.one_of(st.none(), LAYER), crossed=st.sampled_from([False] * 9 + [True]))
    def finish_upload(self, upload: tuple[str, str, bool], content: bytes | None, crossed: bool) -> None:
        """As what has come, or as something else."""
        key, name, in_parts = upload
        known = self.model.uploads.get(key)
        came = known.committed or digest_of(known.content) if known else ABSENT
        digest, in_parts = digest_of(content) if content is not None else came, in_parts is not crossed
        reasons = self.model.finish(key, name, digest, in_parts=in_parts)
        word = self._ask((self.doors.complete if in_parts else self.doors.finish)(name, key, digest))
        self._agree(word, reasons, in_parts=in_parts)
        self._look_at_layers(name)

    @rule(upload=uploads)
    def cancel_upload(self, upload: tuple[str, str, bool]) -> None:
        key, name, _ = upload
        word, _ = self._ask(self.doors.oci("DELETE", f"{name}/blobs/uploads/{key}"))
        self._agree_oci(word, self.model.cancel(key, name))

    # ---- images ----------------------------------------------------------------------------------------------------
    @rule(name=NAMES, manifest=MANIFEST, tags=st.lists(TAGS, max_size=2, unique=True))
    def push_manifest(self, name: str, manifest: Manifest, tags: list[str]) -> None:
        """At docker's door by tag, or by digest where there is none; further tags in the query."""
        reference, *more = tags or [manifest.digest]
        query = "".join(f"&tag={each}" for each in more).replace("&", "?", 1)
        target = f"{name}/manifests/{reference}{query}"
        word, answer = self._ask(self.doors.oci("PUT", target, manifest.content, Content_Type=manifest.media_type))
        self._agree_oci(word, self.model.put(name, manifest, tags))
        if not word:
            assert answer.headers["docker-content-digest"] == manifest.digest
            assert answer.headers.get("oci-subject") == manifest.subject
        self._look(name)

    @rule(name=NAMES, manifest=MANIFEST, tag=st.one_of(st.none(), TAGS))
    def put_image(self, name: str, manifest: Manifest, tag: str | None) -> None:
        named = {} if tag is None else {"imageTag": tag}
        word, answer = self._api("PutImage", repositoryName=name, imageManifest=manifest.content.decode(), **named)
        self._agree_api(word, self.model.put_image(name, manifest, tag))
        assert word or answer["image"]["imageId"] == {"imageDigest": manifest.digest, **named}
        self._look(name)

    @rule(name=NAMES, manifest=MANIFEST, tag=TAGS)
    def push_whole(self, name: str, manifest: Manifest, tag: str) -> None:
        """What it needs, and itself."""
        if name not in self.model.repositories:
            self.create_repository(name, ("MUTABLE", ()))
        for digest in manifest.needs:
            self.push_layer(name, DIGESTS[digest])
        for digest in manifest.lists:
            self.push_whole(name, MANIFESTS[digest], tag)
        self.push_manifest(name, manifest, [tag])
        self.put_image(name, manifest, tag)

    @rule(name=NAMES, reference=REFERENCE)
    def delete_manifest(self, name: str, reference: str) -> None:
        word, _ = self._ask(self.doors.oci("DELETE", f"{name}/manifests/{reference}"))
        self._agree_oci(word, self.model.delete_manifest(name, reference))
        self._look(name)

    @rule(
        name=NAMES,
        wanted=st.lists(
            st.one_of(
                st.tuples(st.sampled_from([*MANIFESTS, ABSENT]), st.just("")),
                st.tuples(st.just(""), TAGS),
                st.tuples(st.sampled_from(list(MANIFESTS)), TAGS),
            ),
            min_size=1,
            max_size=3,
            unique=True,
        ),
    )
    def batch_delete(self, name: str, wanted: list[tuple[str, str]]) -> None:
        ids = [_image_id(*each) for each in wanted]
        word, answer = self._api("BatchDeleteImage", repositoryName=name, imageIds=ids)
        if name not in self.model.repositories:
            self._agree_api(word, {Reason.REPOSITORY_UNKNOWN})
            return
        self._agree_api(word, set())
        gone, left = self.model.batch_delete(name, wanted)
        self.met |= set(left.values())
        assert {_key(each) for each in answer["imageIds"]} == gone
        told = {_key(each["imageId"]): each["failureCode"] for each in answer["failures"]}
        assert told == {key: reason.value[0] for key, reason in left.items()}
        self._look(name)

    @rule(name=NAMES, reference=REFERENCE)
    def pull_manifest(self, name: str, reference: str) -> None:
        """By tag or digest, at both doors."""
        there = self.model.repositories.get(name)
        word, answer = self._ask(self.doors.oci("GET", f"{name}/manifests/{reference}"))
        if there is None:
            self._agree_oci(word, {Reason.REPOSITORY_UNKNOWN})
            return
        found = there.images.get(there.tags.get(reference, reference))
        self._agree_oci(word, set() if found else {Reason.IMAGE_UNKNOWN})
        assert word or (found and answer.body == found.content)
        named = _image_id(reference, "") if ":" in reference else _image_id("", reference)
        word, batch = self._api("BatchGetImage", repositoryName=name, imageIds=[named])
        self._agree_api(word, set())
        assert [each["imageManifest"].encode() for each in batch["images"]] == ([found.content] if found else [])
        word, _ = self._api("DescribeImages", repositoryName=name, imageIds=[named])
        assert word == ("" if found else "ImageNotFoundException")

    @rule(name=NAMES, manifest=MANIFEST, artifact_type=st.sampled_from(["", SBOM, f"{OCI}config.v1+json"]))
    def list_referrers(self, name: str, manifest: Manifest, artifact_type: str) -> None:
        there = self.model.repositories.get(name)
        found = [] if there is None else there.referrers(manifest.digest)
        found = [each for each in found if not artifact_type or each.artifact_type == artifact_type]
        described = [_descriptor(each) for each in found]
        query = f"&artifactType={artifact_type.replace('+', '%2B')}" if artifact_type else ""
        target = f"{name}/referrers/{manifest.digest}"
        assert self._ask(self.doors.oci_pages(target, "manifests", 1, query)) == ("", described)
        asked: dict[str, Any] = {"repositoryName": name, "subjectId": {"imageDigest": manifest.digest}}
        if artifact_type:
            asked["filter"] = {"artifactTypes": [artifact_type]}
        word, referrers = self._ask(self.doors.api_pages("ListImageReferrers", "referrers", 1, **asked))
        self._agree_api(word, {Reason.REPOSITORY_UNKNOWN} if there is None else set())
        assert word or referrers == [each | {"artifactStatus": "ACTIVE"} for each in described]

    # ---- after a step ----------------------------------------------------------------------------------------------
    def _look(self, name: str) -> None:
        """The repository at both doors is the model's, and what is not in the model is nowhere."""
        there = self.model.repositories.get(name)
        word, listed = self._ask(self.doors.api_pages("ListImages", "imageIds", PAGE, repositoryName=name))
        oci_word, tags = self._ask(self.doors.oci_pages(f"{name}/tags/list", "tags", PAGE))
        if there is None:
            self._agree_api(word, {Reason.REPOSITORY_UNKNOWN})
            self._agree_oci(oci_word, {Reason.REPOSITORY_UNKNOWN})
            return
        of_tags = [_image_id(digest, tag) for tag, digest in sorted(there.tags.items())]
        untagged = [_image_id(digest, "") for digest in there.untagged()]
        assert (word, listed) == ("", of_tags + untagged)
        assert (oci_word, tags) == ("", sorted(there.tags))
        for status, wanted in (("TAGGED", of_tags), ("UNTAGGED", untagged)):
            _, answer = self._api("ListImages", repositoryName=name, filter={"tagStatus": status})
            assert answer == {"imageIds": wanted}
        self._look_at_images(name, there)

    def _look_at_images(self, name: str, there: Repository) -> None:
        word, details = self._ask(self.doors.api_pages("DescribeImages", "imageDetails", PAGE, repositoryName=name))
        assert word == ""
        for each in details:
            pushed_at = each.pop("imagePushedAt")
            assert there.pushed.setdefault(each["imageDigest"], pushed_at) == pushed_at, "it came once"
        assert details == [_detail(each, name, there) for _, each in sorted(there.images.items())]
        ids = [_image_id(digest, "") for digest in MANIFESTS]
        word, batch = self._api("BatchGetImage", repositoryName=name, imageIds=ids)
        assert word == ""
        pulled = {each["imageId"]["imageDigest"]: each["imageManifest"].encode() for each in batch["images"]}
        assert pulled == {digest: each.content for digest, each in there.images.items()}
        absent = {each["imageId"]["imageDigest"]: each["failureCode"] for each in batch["failures"]}
        assert absent == dict.fromkeys(MANIFESTS.keys() - there.images.keys(), "ImageNotFound")
        for digest, manifest in MANIFESTS.items():
            oci_word, answer = self._ask(self.doors.oci("GET", f"{name}/manifests/{digest}"))
            if digest in there.images:
                assert oci_word == ""
                assert (answer.body, answer.headers["content-type"]) == (manifest.content, manifest.media_type)
            else:
                self._agree_oci(oci_word, {Reason.IMAGE_UNKNOWN})

    def _look_at_layers(self, name: str) -> None:
        there = self.model.repositories.get(name)
        word, answer = self._api("BatchCheckLayerAvailability", repositoryName=name, layerDigests=[*DIGESTS])
        self._agree_api(word, {Reason.REPOSITORY_UNKNOWN} if there is None else set())
        if there is not None:
            sizes = {each["layerDigest"]: each.get("layerSize") for each in answer["layers"]}
            assert sizes == {digest: len(of) if digest in there.layers else None for digest, of in DIGESTS.items()}

    @rule()
    def look_at_everything(self) -> None:
        for name in sorted(self.model.repositories):
            self._look(name)
            self._look_at_layers(name)

    @invariant()
    def counters_stand(self) -> None:
        there = self.model.repositories
        of_images = {
            (name, digest): len(each.tags_of(digest)) for name, each in there.items() for digest in each.images
        }
        counted = len(there), {name: len(each.images) for name, each in there.items()}, of_images
        assert self.doors.counters() == counted

    def teardown(self) -> None:
        _, there = self._api("DescribeRepositories")
        for each in there["repositories"]:
            self._api("DeleteRepository", repositoryName=each["repositoryName"], force=True)
        self._api("PutAccountSetting", name="BLOB_MOUNTING", value="ENABLED")


def _image_id(digest: str, tag: str) -> dict[str, str]:
    return ({"imageDigest": digest} if digest else {}) | ({"imageTag": tag} if tag else {})


def _key(image_id: dict[str, str]) -> tuple[str, str]:
    return image_id.get("imageDigest", ""), image_id.get("imageTag", "")


def _detail(manifest: Manifest, name: str, there: Repository) -> dict[str, Any]:
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


def _descriptor(manifest: Manifest) -> dict[str, Any]:
    told = {
        "mediaType": manifest.media_type,
        "digest": manifest.digest,
        "size": len(manifest.content),
        "artifactType": manifest.artifact_type,
        "annotations": manifest.annotations,
    }
    return {member: value for member, value in told.items() if value is not None}


@pytest.mark.timeout(3600)  # of what `make fuzz` asks for; by default it takes half a minute of a core
def test_every_answer_at_either_door_is_the_models(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """All runs are at one registry; among them they meet most reasons that it has to refuse something."""
    met: set[Reason] = set()
    fixed = settings(
        max_examples=pytestconfig.getoption("--model-runs"),
        stateful_step_count=STEPS,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    with log_to(io.StringIO(), "json"), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        standing = two_doors(tmp_path)
        doors = runner.run(standing.__aenter__())
        run = runner.get_loop().run_until_complete
        begin = seed(pytestconfig.getoption("--fuzz-seed"))(lambda: BothDoors(doors, run, met))
        run_state_machine_as_test(begin, settings=fixed)  # type: ignore[arg-type]  # a function will do, it says
        runner.run(standing.__aexit__(None, None, None))
    assert len(met) > len(Reason) / 2, f"never met: {set(Reason) - met}"
