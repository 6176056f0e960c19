"""A whole registry against a small model of it (`support/small_registry`): whatever is pushed, tagged, moved, mounted,
listed and deleted, in any order and through either API, each answer is the model's.

After each step the repository that it was about is listed at both doors and pulled by digest, and the counters that
quotas go by are counted. `--model-runs` says how many runs of 25 steps; they are the same each time, unless
`--fuzz-seed` says otherwise. `make fuzz` makes more of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvloop
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

from support.both_protocols import both_protocols
from support.logs import log_to
from support.model_check import (
    ABSENT,
    DIGESTS,
    LAYERS,
    MANIFESTS,
    ONE,
    SBOM,
    TWO,
    Beside,
    descriptor,
    image_id,
    key_of,
    setting,
)
from support.small_registry import Manifest, Reason, Reasons, Repository, digest_of

STEPS = 25
Mode = tuple[str, Sequence[str]]

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
PIECES = st.sampled_from([2, 5, 5000, 100_000]), st.sampled_from([0, 0, 0, 0, -1, 1])
"""How long, and how far from where it belongs."""
OTHERWISE = st.one_of(st.none(), st.none(), LAYER)
SOMETIMES = st.sampled_from([False] * 9 + [True])
REFERENCE = st.one_of(TAGS, st.sampled_from([*MANIFESTS, ABSENT]))
WANTED = st.one_of(
    st.tuples(st.sampled_from([*MANIFESTS, ABSENT]), st.just("")),
    st.tuples(st.just(""), TAGS),
    st.tuples(st.sampled_from(list(MANIFESTS)), TAGS),
)


class Begun(NamedTuple):
    """An upload, by the door that it was begun at."""

    key: str
    name: str
    in_parts: bool


class BothDoors(RuleBasedStateMachine):
    """One run: begins and ends with an empty registry."""

    uploads: Bundle[Begun] = Bundle("uploads")

    def __init__(self, beside: Beside) -> None:
        super().__init__()
        self.beside, self.doors, self.model = beside, beside.doors, beside.model
        self.steps = 0
        self.ask, self.api = beside.ask, beside.api
        self.agree, self.agree_api, self.agree_oci = beside.agree, beside.agree_api, beside.agree_oci

    # ---- repositories ----------------------------------------------------------------------------------------------
    @initialize(mode=MODES, pushed=st.lists(st.tuples(MANIFEST, TAGS), max_size=3))
    def begin(self, mode: Mode, pushed: list[tuple[Manifest, str]]) -> None:
        """Most runs begin with something in a repository."""
        self.create_repository("team/a", mode)
        for manifest, tag in pushed:
            self.push_whole("team/a", manifest, tag)

    @rule(name=NAMES, mode=MODES)
    def create_repository(self, name: str, mode: Mode) -> None:
        word, answer = self.api("CreateRepository", repositoryName=name, **setting(*mode))
        self.agree_api(word, self.model.create(name, *mode))
        assert word or answer["repository"].items() >= {"repositoryName": name, **setting(*mode)}.items()
        self.beside.look(name)

    @rule(name=NAMES, force=st.booleans())
    def delete_repository(self, name: str, force: bool) -> None:
        word, _ = self.api("DeleteRepository", repositoryName=name, force=force)
        self.agree_api(word, self.model.delete(name, force=force))
        self.beside.look(name)

    @rule(name=NAMES, mode=MODES)
    def change_mutability(self, name: str, mode: Mode) -> None:
        word, answer = self.api("PutImageTagMutability", repositoryName=name, **setting(*mode))
        self.agree_api(word, self.model.configure(name, *mode))
        assert word or answer.items() >= setting(*mode).items()

    @invariant()
    def stands(self) -> None:
        """The counters after each step, and after some everything."""
        self.beside.counters_stand()
        self.steps += 1
        if self.steps % 8 == 0:
            self.beside.list_repositories(1 + self.steps % 3)
            for name in sorted(self.model.repositories):
                self.beside.look(name)
                self.beside.look_at_layers(name)

    def teardown(self) -> None:
        _, there = self.api("DescribeRepositories")
        for each in there["repositories"]:
            self.api("DeleteRepository", repositoryName=each["repositoryName"], force=True)
        self.api("PutAccountSetting", name="BLOB_MOUNTING", value="ENABLED")

    # ---- layers ----------------------------------------------------------------------------------------------------
    @rule(name=NAMES, content=LAYER)
    def push_and_pull_layer(self, name: str, content: bytes) -> None:
        self.push_layer(name, content)
        self.pull_layer(name, content)

    def push_layer(self, name: str, content: bytes) -> None:
        """In one request."""
        word, _ = self.ask(self.doors.oci("POST", f"{name}/blobs/uploads/?digest={digest_of(content)}", content))
        self.agree_oci(word, self.model.push_layer(name, content))

    @rule(name=NAMES, content=LAYER, source=st.one_of(st.none(), NAMES), on=st.booleans())
    def mount(self, name: str, content: bytes, source: str | None, on: bool) -> None:
        """Where the account has it switched on, or off."""
        if on is not self.model.mounts:
            word, _ = self.api("PutAccountSetting", name="BLOB_MOUNTING", value="ENABLED" if on else "DISABLED")
            self.agree_api(word, set())
            self.model.mounts = on
        digest = digest_of(content)
        origin = "" if source is None else f"&from={source}"
        word, answer = self.ask(self.doors.oci("POST", f"{name}/blobs/uploads/?mount={digest}{origin}"))
        is_there, reasons = self.model.mount(name, digest, source)
        self.agree_oci(word, reasons)
        assert word or answer.status == (201 if is_there else 202)
        self.beside.look_at_layers(name)

    @rule(name=NAMES, content=LAYER)
    def delete_layer(self, name: str, content: bytes) -> None:
        word, _ = self.ask(self.doors.oci("DELETE", f"{name}/blobs/{digest_of(content)}"))
        self.agree_oci(word, self.model.delete_layer(name, digest_of(content)))
        self.beside.look_at_layers(name)

    @rule(name=NAMES, content=LAYER)
    def pull_layer(self, name: str, content: bytes) -> None:
        """At docker's door, and by a link, which is given of images' layers only."""
        digest, there = digest_of(content), self.model.repositories.get(name)
        word, answer = self.ask(self.doors.oci("GET", f"{name}/blobs/{digest}"))
        reasons = _not_there(there, digest)
        self.agree_oci(word, reasons)
        assert word or answer.body == content
        word, linked = self.api("GetDownloadUrlForLayer", repositoryName=name, layerDigest=digest)
        if there is not None and not reasons and not there.uses(digest):
            reasons = {Reason.LAYER_OF_NO_IMAGE}
        self.agree_api(word, reasons)
        assert word or self.ask(self.doors.linked(linked["downloadUrl"])) == content

    # ---- uploads ---------------------------------------------------------------------------------------------------
    @rule(
        target=uploads,
        name=NAMES,
        content=st.sampled_from([ONE, TWO]),
        in_parts=st.booleans(),
        pieces=st.lists(st.tuples(*PIECES), max_size=4),
        otherwise=OTHERWISE,
        ends=st.sampled_from([0, 1, 2]),
    )
    def upload_layer(
        self,
        name: str,
        content: bytes,
        in_parts: bool,
        pieces: list[tuple[int, int]],
        otherwise: bytes | None,
        ends: int,
    ) -> MultipleResults[Begun] | Begun:
        """Of some pieces, all of it or not; ended not at all, once, or at the one and the other door."""
        reasons = self.model.begin(name, in_parts=in_parts)
        word, key = self.ask(self.doors.begin_parts(name) if in_parts else self.doors.begin(name))
        self.agree(word, reasons, in_parts=in_parts)
        if word:
            return multiple()
        self.model.begun(key, name, in_parts=in_parts)
        begun = Begun(key, name, in_parts)
        for size, off in pieces:
            self.append(begun, content, size, off, False)
        for crossed in (False, True)[:ends]:
            self.finish(begun, otherwise, crossed)
        return begun

    @rule(
        upload=uploads,
        content=LAYER,
        piece=st.tuples(*PIECES),
        otherwise=OTHERWISE,
        ends=st.booleans(),
        crossed=SOMETIMES,
    )
    def go_on(
        self, upload: Begun, content: bytes, piece: tuple[int, int], otherwise: bytes | None, ends: bool, crossed: bool
    ) -> None:
        """With one piece more, or to the end; now and then at the other door."""
        if ends:
            self.finish(upload, otherwise, crossed)
        else:
            self.append(upload, content, *piece, crossed)

    @rule(upload=uploads, cancels=SOMETIMES)
    def repeat(self, upload: Begun, cancels: bool) -> None:
        """What was asked last, as after an answer that got lost: the last part, or the end. Or cancel it."""
        known = self.model.uploads.get(upload.key)
        if cancels:
            word, _ = self.ask(self.doors.oci("DELETE", f"{upload.name}/blobs/uploads/{upload.key}"))
            self.agree_oci(word, self.model.cancel(upload.key, upload.name))
        elif known is not None and known.parts and not known.committed:
            start = len(known.content) - known.parts[-1]
            again = known.content[start:]
            reasons = self.model.append(upload.key, upload.name, start, again, in_parts=True)
            word, _ = self.ask(self.doors.add_part(upload.name, upload.key, start, again))
            self.agree_api(word, reasons)
        else:
            self.finish(upload, None, False)

    def append(self, upload: Begun, content: bytes, size: int, off: int, crossed: bool) -> None:
        """A piece of what `content` has there, at its place or beside it."""
        key, name, in_parts = upload
        known = self.model.uploads.get(key)
        end = len(known.content) if known else 0
        start, piece = max(0, end + off), content[end : end + size] or b"more"
        in_parts = in_parts is not crossed
        reasons = self.model.append(key, name, start, piece, in_parts=in_parts)
        if in_parts:
            word, last = self.ask(self.doors.add_part(name, key, start, piece))
            if word in ("", "InvalidLayerPartException"):
                assert last == len(self.model.uploads[key].content) - 1
        else:
            word = self.ask(self.doors.append(name, key, start, piece))
        self.agree(word, reasons, in_parts=in_parts)

    def finish(self, upload: Begun, otherwise: bytes | None, crossed: bool) -> None:
        """As what has come, or as something else."""
        key, name, in_parts = upload
        known = self.model.uploads.get(key)
        came = known.committed or digest_of(known.content) if known else ABSENT
        digest, in_parts = came if otherwise is None else digest_of(otherwise), in_parts is not crossed
        reasons = self.model.finish(key, name, digest, in_parts=in_parts)
        word = self.ask((self.doors.complete if in_parts else self.doors.finish)(name, key, digest))
        self.agree(word, reasons, in_parts=in_parts)
        self.beside.look_at_layers(name)

    # ---- images ----------------------------------------------------------------------------------------------------
    @rule(name=NAMES, manifest=MANIFEST, tags=st.lists(TAGS, max_size=2, unique=True), by_api=st.booleans())
    def push(self, name: str, manifest: Manifest, tags: list[str], by_api: bool) -> None:
        if by_api:
            self.put_image(name, manifest, tags[0] if tags else None)
        else:
            self.put_manifest(name, manifest, tags)

    @rule(name=NAMES, manifest=MANIFEST, tag=TAGS)
    def push_whole(self, name: str, manifest: Manifest, tag: str) -> None:
        """What it needs, and itself, and that once more at the other door."""
        for digest in manifest.needs:
            self.push_layer(name, DIGESTS[digest])
        for digest in manifest.lists:
            self.push_whole(name, MANIFESTS[digest], tag)
        self.put_manifest(name, manifest, [tag])
        self.put_image(name, manifest, tag)

    def put_manifest(self, name: str, manifest: Manifest, tags: list[str]) -> None:
        """At docker's door by tag, or by digest where there is none; further tags in the query."""
        reference, *more = tags or [manifest.digest]
        query = "".join(f"&tag={each}" for each in more).replace("&", "?", 1)
        target = f"{name}/manifests/{reference}{query}"
        word, answer = self.ask(self.doors.oci("PUT", target, manifest.content, Content_Type=manifest.media_type))
        self.agree_oci(word, self.model.put(name, manifest, tags))
        if not word:
            assert answer.headers["docker-content-digest"] == manifest.digest
            assert answer.headers.get("oci-subject") == manifest.subject
        self.beside.look(name)

    def put_image(self, name: str, manifest: Manifest, tag: str | None) -> None:
        named = image_id("", tag or "")
        word, answer = self.api("PutImage", repositoryName=name, imageManifest=manifest.content.decode(), **named)
        self.agree_api(word, self.model.put_image(name, manifest, tag))
        assert word or answer["image"]["imageId"] == {"imageDigest": manifest.digest, **named}
        self.beside.look(name)

    @rule(name=NAMES, reference=REFERENCE)
    def delete_manifest(self, name: str, reference: str) -> None:
        word, _ = self.ask(self.doors.oci("DELETE", f"{name}/manifests/{reference}"))
        self.agree_oci(word, self.model.delete_manifest(name, reference))
        self.beside.look(name)

    @rule(name=NAMES, wanted=st.lists(WANTED, min_size=1, max_size=4, unique=True))
    def batch_delete(self, name: str, wanted: list[tuple[str, str]]) -> None:
        word, answer = self.api("BatchDeleteImage", repositoryName=name, imageIds=[image_id(*each) for each in wanted])
        if name not in self.model.repositories:
            self.agree_api(word, {Reason.REPOSITORY_UNKNOWN})
            return
        self.agree_api(word, set())
        gone, left = self.model.batch_delete(name, wanted)
        self.beside.met |= set(left.values())
        assert {key_of(each) for each in answer["imageIds"]} == gone
        told = {key_of(each["imageId"]): each["failureCode"] for each in answer["failures"]}
        assert told == {key: reason.value[0] for key, reason in left.items()}
        self.beside.look(name)

    @rule(name=NAMES, reference=REFERENCE)
    def pull_manifest(self, name: str, reference: str) -> None:
        """By tag or digest, at both doors."""
        there = self.model.repositories.get(name)
        word, answer = self.ask(self.doors.oci("GET", f"{name}/manifests/{reference}"))
        if there is None:
            self.agree_oci(word, {Reason.REPOSITORY_UNKNOWN})
            return
        found = there.images.get(there.tags.get(reference, reference))
        self.agree_oci(word, set() if found else {Reason.IMAGE_UNKNOWN})
        assert word or (found and answer.body == found.content)
        named = image_id(reference, "") if ":" in reference else image_id("", reference)
        word, batch = self.api("BatchGetImage", repositoryName=name, imageIds=[named])
        self.agree_api(word, set())
        assert [each["imageManifest"].encode() for each in batch["images"]] == ([found.content] if found else [])
        word, _ = self.api("DescribeImages", repositoryName=name, imageIds=[named])
        assert word == ("" if found else "ImageNotFoundException")

    @rule(name=NAMES, manifest=MANIFEST, artifact_type=st.sampled_from(["", SBOM, "a/b"]))
    def list_referrers(self, name: str, manifest: Manifest, artifact_type: str) -> None:
        there = self.model.repositories.get(name)
        found = [] if there is None else there.referrers(manifest.digest)
        described = [descriptor(each) for each in found if artifact_type in ("", each.artifact_type)]
        query = f"&artifactType={artifact_type}" if artifact_type else ""
        target = f"{name}/referrers/{manifest.digest}"
        assert self.ask(self.doors.oci_pages(target, "manifests", 1, query)) == ("", described)
        asked: dict[str, Any] = {"repositoryName": name, "subjectId": {"imageDigest": manifest.digest}}
        if artifact_type:
            asked["filter"] = {"artifactTypes": [artifact_type]}
        word, referrers = self.ask(self.doors.api_pages("ListImageReferrers", "referrers", 1, **asked))
        self.agree_api(word, {Reason.REPOSITORY_UNKNOWN} if there is None else set())
        assert word or referrers == [each | {"artifactStatus": "ACTIVE"} for each in described]


def _not_there(there: Repository | None, layer: str) -> Reasons:
    if there is None:
        return {Reason.REPOSITORY_UNKNOWN}
    return set() if layer in there.layers else {Reason.LAYER_UNKNOWN}


@contextlib.contextmanager
def _registry(folder: Path) -> Iterator[Callable[[], Beside]]:
    """One that is empty, beside a model that is."""
    with log_to(io.StringIO(), "json"), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        standing = both_protocols(folder)
        doors = runner.run(standing.__aenter__())
        yield lambda: Beside(doors, runner.get_loop().run_until_complete)
        runner.run(standing.__aexit__(None, None, None))


@pytest.mark.timeout(3600)  # of what `make fuzz` asks for; by default it takes half a minute of a core
def test_every_answer_at_either_door_is_the_models(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """All runs are at one registry, which each of them leaves empty."""
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
    with _registry(tmp_path) as beside:
        begin = seed(pytestconfig.getoption("--fuzz-seed"))(lambda: BothDoors(beside()))
        run_state_machine_as_test(begin, settings=fixed)  # type: ignore[arg-type]  # a function will do, it says


def test_each_reason_to_refuse_is_told_by_its_own_word(tmp_path: Path) -> None:
    """One run by hand, in which the model meets them all."""
    app, other, both = list(MANIFESTS.values())[:3]
    with _registry(tmp_path) as beside:
        run = BothDoors(beside())
        run.begin(("MUTABLE", ()), [(both, "v1")])
        run.create_repository("team/a", ("MUTABLE", ()))  # it is there
        run.pull_manifest("team/a", "dev")  # there is none
        run.list_referrers("bb", app, "")  # nor this repository
        for content in LAYERS:
            run.push_and_pull_layer("bb", content)  # of no image
        run.push("c/d/e", app, ["v1"], False)  # its layers are missing
        run.push("bb", both, ["v1"], True)  # its manifests
        run.push("team/a", both, ["v1"], True)  # it is there
        run.push("team/a", app, ["v2", "dev"], False)
        run.push("team/a", app, ["v1"], False)  # one tag too many
        run.batch_delete("team/a", [(app.digest, ""), (other.digest, "v2"), (ABSENT, "")])  # listed, another, none
        run.delete_manifest("team/a", app.digest)  # listed
        run.delete_repository("team/a", False)  # not empty
        run.change_mutability("team/a", ("IMMUTABLE", ()))
        run.push("team/a", other, ["v2"], True)  # the tag stays
        run.delete_layer("team/a", ONE)  # in use
        run.delete_layer("bb", ONE)
        run.delete_layer("bb", ONE)  # it is gone
        run.create_repository("c/d/e", ("MUTABLE", ()))
        run.create_repository("ff", ("MUTABLE", ()))  # one too many
        run.upload_layer("bb", TWO, True, [], None, 1)  # without a part
        run.upload_layer("bb", TWO, True, [(2, 0), (100_000, 1), (100_000, 0)], None, 2)  # too small, beside; elsewhere
        run.upload_layer("bb", TWO, False, [(2, 0), (5, -1)], ONE, 1)  # beside; another layer
        again = run.upload_layer("bb", TWO, True, [(100_000, 0)], None, 1)  # it is there
        assert isinstance(again, Begun)
        run.repeat(again, False)
        for in_parts in (True, False):
            done = run.upload_layer("c/d/e", ONE, in_parts, [(100_000, 0)], None, 1)
            assert isinstance(done, Begun)
            run.delete_layer("c/d/e", ONE)
            run.repeat(done, False)  # what it made is gone
        assert run.beside.met == set(Reason), f"never met: {set(Reason) - run.beside.met}"
        run.stands()
