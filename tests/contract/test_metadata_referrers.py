"""What ECR's ListImageReferrers answers, through every client; docker's own list is in `test_metadata_images`."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest

from proxy.metadata.operations import referrers
from proxy.model.errors import Code, Failure
from support.metadata import ACCOUNT, INDEX, REPOSITORY, World, digest, index_manifest

SUBJECT = {"mediaType": INDEX, "digest": digest("an absent subject"), "size": 3}
NAMED: dict[str, Any] = {"repositoryName": REPOSITORY, "subjectId": {"imageDigest": SUBJECT["digest"]}}


async def refused(code: Code, asking: Awaitable[Any]) -> Failure:
    with pytest.raises(Failure) as caught:
        await asking
    assert caught.value.code is code, caught.value
    return caught.value


async def refer(world: World, number: int, artifact_type: str, **more: Any) -> dict[str, Any]:
    """A referrer of SUBJECT, as it is to be listed."""
    content = index_manifest([], subject=SUBJECT, artifactType=artifact_type, number=number, **more)
    await world.put(content, create=True)
    listed = {"digest": digest(content), "mediaType": INDEX, "artifactType": artifact_type, "size": len(content)}
    return {**listed, **more, "artifactStatus": "ACTIVE"}


async def listed(world: World, **more: Any) -> list[dict[str, Any]]:
    """All pages; each but the last has `maxResults` entries."""
    found: list[dict[str, Any]] = []
    while True:
        page = await world.call("ListImageReferrers", **NAMED, **more)
        found += page["referrers"]
        if "nextToken" not in page:
            return found
        assert len(page["referrers"]) == more["maxResults"]
        more["nextToken"] = page["nextToken"]


async def test_referrers_are_listed_by_digest_with_what_their_manifests_say(world: World) -> None:
    signed = await refer(world, 1, "a/signature", annotations={"by": "ann", "ü": "é"})
    bill = await refer(world, 2, "a/sbom")
    both = sorted([signed, bill], key=lambda each: each["digest"])
    assert await listed(world) == both
    assert await listed(world, filter={"artifactStatus": "ANY"}) == both
    assert await listed(world, filter={"artifactTypes": []}) == both
    assert await listed(world, filter={"artifactTypes": ["a/sbom"]}) == [bill]
    assert await listed(world, filter={"artifactTypes": ["a/sbom", "a/none", "a/signature", "a/sbom"]}) == both
    for status in ("ARCHIVED", "ACTIVATING"):
        assert await listed(world, filter={"artifactStatus": status}) == []


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
async def test_pages_of_any_size_and_any_types_hold_everything_once(world: World, limit: int) -> None:
    made = [await refer(world, number, f"a/{number % 3}") for number in range(7)]
    for types in ([], ["a/0", "a/1"], ["a/2"]):
        wanted = [each for each in made if not types or each["artifactType"] in types]
        found = await listed(world, maxResults=limit, filter={"artifactTypes": types})
        assert found == sorted(wanted, key=lambda each: each["digest"])


async def test_a_page_has_twenty_entries_unless_asked_for_others(world: World) -> None:
    for number in range(21):
        await refer(world, number, "a/b")
    page = await world.call("ListImageReferrers", **NAMED)
    assert len(page["referrers"]) == 20
    rest = await world.call("ListImageReferrers", **NAMED, nextToken=page["nextToken"])
    assert (len(rest["referrers"]), "nextToken" in rest) == (1, False)


async def test_a_page_ends_before_its_annotations_are_too_many(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty of 4 MiB would be held whole; a single one always comes."""
    made = [await refer(world, number, "a/b", annotations={"x": "y" * 500}) for number in range(3)]
    made.sort(key=lambda each: each["digest"])
    monkeypatch.setattr(referrers, "PAGE_BYTES", made[0]["size"] + made[1]["size"])
    page = await world.call("ListImageReferrers", **NAMED)
    assert page["referrers"] == made[:2]
    rest = await world.call("ListImageReferrers", **NAMED, nextToken=page["nextToken"])
    assert rest == {"referrers": made[2:]}
    monkeypatch.setattr(referrers, "PAGE_BYTES", 1)
    one, more = await world.metadata.referrers(
        ACCOUNT, REPOSITORY, str(SUBJECT["digest"]), artifact_type=None, last="", limit=500
    )
    assert ([each.digest for each in one], more) == ([made[0]["digest"]], True)


async def test_a_subject_without_referrers_has_none_whether_it_is_there_or_not(world: World) -> None:
    content = index_manifest([])
    await world.put(content, ["v1"], create=True)
    for subject in (digest(content), digest("nowhere"), f"sha512:{'0' * 128}"):
        asked = {"repositoryName": REPOSITORY, "subjectId": {"imageDigest": subject}}
        assert await world.call("ListImageReferrers", **asked) == {"referrers": []}


async def test_what_is_wrong_is_named(world: World) -> None:
    await refused(Code.REPOSITORY_NOT_FOUND, world.call("ListImageReferrers", **NAMED))
    for number in range(2):
        await refer(world, number, "a/b")
    token = (await world.call("ListImageReferrers", **NAMED, maxResults=1))["nextToken"]
    ask = world.call
    wrong: list[dict[str, Any]] = [
        {"nextToken": "made up"},
        {"nextToken": token, "filter": {"artifactTypes": ["a/b"]}},
        {"nextToken": token, "subjectId": {"imageDigest": digest("other")}},
        {"maxResults": 51},
        {"maxResults": 0},
        {"subjectId": {}},
        {"filter": {"artifactTypes": ["a/b"] * 6}},
        {"filter": {"artifactTypes": [""]}},
        {"filter": {"artifactStatus": "GONE"}},
    ]
    for more in wrong:
        await refused(Code.INVALID_PARAMETER, ask("ListImageReferrers", **{**NAMED, **more}))
    for malformed in ("v1", "sha256:1", "md5:00"):
        asked = {**NAMED, "subjectId": {"imageDigest": malformed}}
        failure = await refused(Code.VALIDATION, ask("ListImageReferrers", **asked))
        assert "subjectId.imageDigest" in failure.message
