"""What a worker keeps, for how long, and what it never keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.metadata.client.cache import CachedMetadata
from proxy.metadata.client.epochs import Epochs
from proxy.metadata.db.transaction import Changes
from proxy.metadata.operations.operation import KEEP_SECONDS
from proxy.model.errors import Code, Failure
from proxy.model.identity import AccessKey, AttachedPolicy, Principal, RepositoryAccess
from proxy.model.records import Blob, KeyRecord, SealedObject, StoredManifest
from support.identities import ADMINISTRATORS
from support.metadata import ACCOUNT, DATA_KEY, IMAGE, Clock, digest

SEALED = SealedObject("0" * 32, DATA_KEY, "arn", 4096, 1, 2, 0, ())
ADMINISTRATOR = Principal("AIDA", ACCOUNT, "arn", "administrator", policies=ADMINISTRATORS)
CHANGED = Changes(repositories={(ACCOUNT, "a/b")})


class Answers:
    """A metadata service that counts what it is asked. `during` runs while a question is under way."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.during: Any = lambda: None
        self.known = True
        self.contents = {"v1": b"one", "v2": b"two"}

    def __getattr__(self, name: str) -> Any:
        return object()  # what the cache only passes on

    def _ask(self, what: str) -> None:
        self.asked[what] += 1
        self.during()

    async def blob(self, account: str, repository: str, wanted: str) -> Blob:
        self._ask("blob")
        if not self.known:
            raise Failure(Code.LAYERS_NOT_FOUND, "no")
        return Blob(wanted, 1, SEALED)

    async def manifest(self, account: str, repository: str, reference: str) -> StoredManifest:
        self._ask("manifest")
        by_digest = {digest(content): content for content in self.contents.values()}
        content = by_digest.get(reference) or self.contents[reference]
        return StoredManifest(digest(content), IMAGE, content)

    async def frame_hashes(self, object_key: str, plain_offset: int, *, fresh: bool = False) -> bytes:
        self._ask("frame_hashes")
        return f"{object_key[-1]}{plain_offset}".encode() * 16 if self.known else b""

    async def repositories_access(self, account: str, names: Sequence[str]) -> Sequence[RepositoryAccess]:
        self._ask(f"repositories_access {' '.join(names)}")
        return [RepositoryAccess(account, name, exists=name != "no/where") for name in names]

    async def principal(self, principal_id: str) -> Principal | None:
        self._ask("principal")
        return ADMINISTRATOR if self.known else None

    async def access_key(self, access_key_id: str) -> AccessKey | None:
        self._ask("access_key")
        return AccessKey(access_key_id, b"s", ADMINISTRATOR) if self.known else None

    async def key_records(self) -> Sequence[KeyRecord]:
        self._ask("key_records")
        return (KeyRecord("first", "wharfage", b"check", None, "", True),) if self.known else ()


@pytest.fixture
def epochs(tmp_path: Path) -> Iterator[Epochs]:
    page = Epochs(tmp_path / "epochs")
    yield page
    page.close()


@pytest.fixture
def answers() -> Answers:
    return Answers()


def cached(answers: Answers, epochs: Epochs | None, **more: Any) -> CachedMetadata:
    return CachedMetadata.wrap(answers, epochs, **more)


async def ask_all(cache: CachedMetadata) -> list[object]:
    return [
        await cache.blob(ACCOUNT, "a/b", "sha256:1"),
        await cache.manifest(ACCOUNT, "a/b", "v1"),
        await cache.manifest(ACCOUNT, "a/b", digest(b"one")),
        await cache.principal("AIDA"),
        await cache.access_key("AKIA"),
        await cache.key_records(),
    ]


async def test_while_the_epoch_stands_nothing_is_asked_twice(answers: Answers, epochs: Epochs) -> None:
    cache = cached(answers, epochs)
    first = await ask_all(cache)
    assert await ask_all(cache) == first
    assert answers.asked == Counter(blob=1, manifest=2, principal=1, access_key=1, key_records=1)


async def test_a_changed_repository_is_asked_for_again_and_identities_are_not(answers: Answers, epochs: Epochs) -> None:
    cache = cached(answers, epochs)
    await ask_all(cache)
    epochs.bump(CHANGED)
    await ask_all(cache)
    assert answers.asked == Counter(blob=2, manifest=4, principal=1, access_key=1, key_records=1)
    epochs.bump(Changes(identity=True))
    await ask_all(cache)
    assert answers.asked == Counter(blob=2, manifest=4, principal=2, access_key=2, key_records=2)


async def test_an_answer_that_a_change_overtook_is_not_kept(answers: Answers, epochs: Epochs) -> None:
    """The epoch is taken before the question: a change between the row's reading and its arrival is seen."""
    cache = cached(answers, epochs)
    answers.during = lambda: epochs.bump(replace(CHANGED, identity=True))
    await ask_all(cache)
    answers.during = lambda: None
    before = Counter(answers.asked)
    await ask_all(cache)
    assert answers.asked == before + before


async def test_of_many_repositories_only_those_are_asked_for_together_that_are_not_kept(
    answers: Answers, epochs: Epochs
) -> None:
    """In the order that was asked for; what is absent or was changed meanwhile is asked for again, alone."""
    cache = cached(answers, epochs)
    names = ["c/d", "no/where", "a/b", "c/d"]
    for _ in range(2):
        found = await cache.repositories_access(ACCOUNT, names)
        assert [access.name for access in found] == names
        assert [access.exists for access in found] == [True, False, True, True]
    assert (await cache.repository_access(ACCOUNT, "a/b")).exists
    epochs.bump(CHANGED)
    await cache.repositories_access(ACCOUNT, ["a/b", "c/d"])
    assert list(answers.asked) == [
        "repositories_access c/d no/where a/b",
        "repositories_access no/where",
        "repositories_access a/b",
    ]


async def test_absence_is_never_kept(answers: Answers, epochs: Epochs) -> None:
    cache = cached(answers, epochs)
    answers.known = False
    for _ in range(2):
        assert await cache.principal("AIDA") is None
        assert await cache.access_key("AKIA") is None
        assert await cache.key_records() == ()
        with pytest.raises(Failure):
            await cache.blob(ACCOUNT, "a/b", "sha256:1")
    assert answers.asked == Counter(blob=2, principal=2, access_key=2, key_records=2)


async def test_without_an_epoch_page_everything_is_asked(answers: Answers) -> None:
    cache = cached(answers, None)
    await ask_all(cache)
    before = Counter(answers.asked)
    await ask_all(cache)
    assert answers.asked == before + before


async def test_while_the_page_does_not_speak_everything_is_asked_and_nothing_of_it_is_kept(
    answers: Answers, epochs: Epochs
) -> None:
    view = cached(answers, epochs)

    async def ask_all() -> None:
        await view.blob(ACCOUNT, "a/b", "d")
        await view.manifest(ACCOUNT, "a/b", "v1")
        await view.principal("AIDA")
        await view.access_key("AKIA")

    await ask_all()
    epochs.grant_lease(1)
    for _ in range(2):
        await ask_all()
    assert set(answers.asked.values()) == {3}
    epochs.grant_lease(0)
    for _ in range(2):
        await ask_all()
    assert set(answers.asked.values()) == {4}


async def test_a_kept_blob_is_asked_for_within_the_hour_that_its_grace_needs(answers: Answers, epochs: Epochs) -> None:
    clock = Clock()
    cache = cached(answers, epochs, clock=clock)
    await cache.blob(ACCOUNT, "a/b", "sha256:1")
    clock.now += KEEP_SECONDS - 1
    await cache.blob(ACCOUNT, "a/b", "sha256:1")
    assert answers.asked["blob"] == 1
    clock.now += 1
    await cache.blob(ACCOUNT, "a/b", "sha256:1")
    assert answers.asked["blob"] == 2
    assert KEEP_SECONDS < 3600


async def test_entries_are_bounded_and_the_least_recently_used_goes(answers: Answers, epochs: Epochs) -> None:
    cache = cached(answers, epochs, entries=2)
    for wanted in ("sha256:1", "sha256:2", "sha256:1", "sha256:3", "sha256:1", "sha256:2"):
        await cache.blob(ACCOUNT, "a/b", wanted)
    assert answers.asked["blob"] == 4


async def test_policies_that_principals_have_in_common_are_kept_once(answers: Answers, epochs: Epochs) -> None:
    """Of each question's answer they are objects of its own: here read anew, as from a line."""
    common = ADMINISTRATORS[0]

    async def principal(principal_id: str) -> Principal:
        own = AttachedPolicy(f"own of {principal_id}")
        return replace(ADMINISTRATOR, principal_id=principal_id, policies=(own, replace(common)), boundary=replace(own))

    answers.principal = principal  # type: ignore[method-assign]
    cache = cached(answers, epochs)
    found = [await cache.principal("AIDA1"), await cache.principal("AIDA2"), await cache.principal("AIDA1")]
    assert found[0] is found[2]
    assert found[:2] == [await principal("AIDA1"), await principal("AIDA2")]
    one, other = (each.policies for each in found[:2] if each is not None)
    assert one[1] is other[1]
    assert one[0] != other[0]
    epochs.bump(Changes(identity=True))
    again = await cache.principal("AIDA1")
    assert again is not None
    assert again is not found[0]
    assert all(new is old for new, old in zip(again.policies, one, strict=True))
    assert again.boundary is one[0]


async def test_manifest_bytes_are_bounded_and_what_does_not_fit_is_asked_for(answers: Answers, epochs: Epochs) -> None:
    cache = cached(answers, epochs, manifest_bytes=4)
    for reference in ("v1", "v1", "v2", "v2", "v1"):
        assert (await cache.manifest(ACCOUNT, "a/b", reference)).content == answers.contents[reference]
    assert answers.asked["manifest"] == 3
    answers.contents["v1"] = b"larger than all room"
    epochs.bump(CHANGED)
    for _ in range(2):
        assert (await cache.manifest(ACCOUNT, "a/b", "v1")).content == b"larger than all room"
    assert answers.asked["manifest"] == 5


async def test_a_manifest_that_does_not_hash_to_its_digest_is_not_given_out(answers: Answers) -> None:
    async def rotten(account: str, repository: str, reference: str) -> StoredManifest:
        return StoredManifest(digest(b"one"), IMAGE, b"rotten")

    setattr(answers, "manifest", rotten)  # noqa: B010  # the type system forbids the plain form
    cache = cached(answers, None)
    for _ in range(2):
        with pytest.raises(Failure) as caught:
            await cache.manifest(ACCOUNT, "a/b", "v1")
        assert caught.value.code is Code.BLOB_CORRUPT


async def test_a_page_of_frame_hashes_is_kept_without_an_epoch_page_too_and_absence_is_not(answers: Answers) -> None:
    cache = cached(answers, None)
    answers.known = False
    assert await cache.frame_hashes("0" * 32, 0) == b""
    answers.known = True
    pages = [await cache.frame_hashes(key * 32, offset) for key in "01" for offset in (0, 9)]
    assert len(set(pages)) == 4
    assert pages == [await cache.frame_hashes(key * 32, offset) for key in "01" for offset in (0, 9)]
    assert answers.asked["frame_hashes"] == 5


async def test_a_page_of_frame_hashes_asked_for_afresh_takes_the_place_of_the_kept_one(answers: Answers) -> None:
    cache = cached(answers, None)
    await cache.frame_hashes("0" * 32, 0)
    await cache.frame_hashes("0" * 32, 0, fresh=True)
    await cache.frame_hashes("0" * 32, 0)
    assert answers.asked["frame_hashes"] == 2
