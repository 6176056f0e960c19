"""Headers of replications: what a sender writes is what the receiver reads, and nothing else is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.model.errors import Code, Failure
from proxy.model.replica_headers import (
    DESTINATION,
    ORIGIN,
    SOURCE,
    TAGS,
    TAGS_MOST,
    batches,
    read_headers,
    removed_header,
    tags_header,
)
from proxy.model.replication import RemovedTag, ReplicaTag, ReplicationDestination

FROM, TO = "eu-west-1/123456789012", "us-east-1/999988887777"
BOTH = {SOURCE: FROM, DESTINATION: TO}

names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", fullmatch=True)
versions = st.floats(1e-9, 9e10) | st.just(0.0)
origins = st.sampled_from([FROM, TO])


@given(st.lists(st.builds(ReplicaTag, names, versions), max_size=TAGS_MOST))
def test_tags_come_as_they_were_sent_to_the_last_bit_of_their_versions(tags: list[ReplicaTag]) -> None:
    found = read_headers("PUT", {**BOTH, TAGS: tags_header(tags)})
    assert found is not None
    assert found.tags == tuple(tags)
    assert (found.source.text, found.destination) == (FROM, ReplicationDestination("us-east-1", "999988887777"))


@given(st.lists(st.builds(RemovedTag, names, versions, origins), max_size=TAGS_MOST), origins)
def test_a_deletion_comes_as_it_was_sent(tags: list[RemovedTag], origin: str) -> None:
    found = read_headers("DELETE", {**BOTH, TAGS: removed_header(tags), ORIGIN: origin})
    assert found is not None
    assert (found.removed, found.origin, found.tags) == (tuple(tags), origin, ())


@given(st.lists(st.builds(ReplicaTag, names, versions), max_size=70))
def test_many_tags_go_in_several_requests_and_none_in_one(tags: list[ReplicaTag]) -> None:
    found = batches(tags)
    assert [tag for batch in found for tag in batch] == tags
    assert found
    assert all(len(batch) <= TAGS_MOST for batch in found)


def test_a_request_without_the_headers_is_no_replication() -> None:
    assert read_headers("PUT", {TAGS: "v1=1.0", ORIGIN: FROM}) is None


@pytest.mark.parametrize(
    "headers",
    [
        {SOURCE: FROM},
        {DESTINATION: TO},
        {**BOTH, SOURCE: "eu-west-1"},
        {**BOTH, DESTINATION: "us-east-1/12345678901"},
        {**BOTH, TAGS: "v1"},
        {**BOTH, TAGS: "v1=1.0=2.0"},
        {**BOTH, TAGS: "v1=nan"},
        {**BOTH, TAGS: "v1=inf"},
        {**BOTH, TAGS: "v1=-1"},
        {**BOTH, TAGS: "v1=1e99"},
        {**BOTH, TAGS: "v1=100000000001"},
        {**BOTH, TAGS: "v1=1_0"},
        {**BOTH, TAGS: ",".join(f"v{number}=1.0" for number in range(TAGS_MOST + 1))},
    ],
)
def test_what_no_sender_writes_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Failure) as refused:
        read_headers("PUT", headers)
    assert refused.value.code is Code.INVALID_PARAMETER


@pytest.mark.parametrize("tag", ["v1=1.0", f"v1=1.0={FROM}x", "v1=1.0="])
def test_a_removed_tag_needs_the_registry_that_it_was_pushed_to(tag: str) -> None:
    with pytest.raises(Failure):
        read_headers("DELETE", {**BOTH, TAGS: tag})


@pytest.mark.parametrize("name", [".v1", "a/b", ""])
def test_a_name_that_is_no_tag_is_refused(name: str) -> None:
    with pytest.raises(Failure) as refused:
        read_headers("PUT", {**BOTH, TAGS: f"{name}=1.0"})
    assert refused.value.code is Code.TAG_INVALID
