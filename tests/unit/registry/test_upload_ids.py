"""Ids that say of themselves that an upload was begun here."""

from __future__ import annotations

import uuid

import pytest

from proxy.auth.envelope import SmallSealer
from proxy.model.names import is_upload_id
from proxy.registry.upload_ids import LIFE_SECONDS, SKEW_SECONDS, UploadIds, in_first_location, name_in, upload_name

ACCOUNT, REPOSITORY = "123456789012", "team/app"
KEY, OTHER = ("a", bytes(32)), ("b", bytes([1]) * 32)


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def ids(*keys: tuple[str, bytes], purpose: str = "states", clock: Clock | None = None) -> UploadIds:
    return UploadIds(SmallSealer(keys or (KEY,), purpose), clock or Clock())


def test_an_id_is_known_to_every_process_of_the_registry_also_after_its_key_was_rotated() -> None:
    made = ids(KEY).new(ACCOUNT, REPOSITORY)
    assert is_upload_id(made)
    assert ids(KEY).is_new(made, ACCOUNT, REPOSITORY)
    assert ids(OTHER, KEY).is_new(made, ACCOUNT, REPOSITORY)


@pytest.mark.parametrize(
    ("keys", "purpose", "account", "repository"),
    [
        ((OTHER,), "states", ACCOUNT, REPOSITORY),
        ((KEY,), "tokens", ACCOUNT, REPOSITORY),
        ((KEY,), "states", "210987654321", REPOSITORY),
        ((KEY,), "states", ACCOUNT, "team/other"),
    ],
    ids=["another registry", "another purpose", "another account", "another repository"],
)
def test_an_id_counts_only_where_it_was_made(
    keys: tuple[tuple[str, bytes]], purpose: str, account: str, repository: str
) -> None:
    made = ids(KEY).new(ACCOUNT, REPOSITORY)
    assert not ids(*keys, purpose=purpose).is_new(made, account, repository)


def test_one_changed_digit_makes_it_unknown() -> None:
    known = ids()
    made = uuid.UUID(known.new(ACCOUNT, REPOSITORY)).int
    for bit in range(128):
        assert not known.is_new(str(uuid.UUID(int=made ^ 1 << bit)), ACCOUNT, REPOSITORY)


def test_an_id_is_forgotten_after_an_hour_and_what_clocks_may_differ() -> None:
    clock = Clock()
    known = ids(clock=clock)
    made = known.new(ACCOUNT, REPOSITORY)
    for seconds, counts in [(-SKEW_SECONDS, True), (LIFE_SECONDS, True), (LIFE_SECONDS + SKEW_SECONDS + 1, False)]:
        clock.now = Clock.now + seconds
        assert known.is_new(made, ACCOUNT, REPOSITORY) is counts
    clock.now = Clock.now - SKEW_SECONDS - 1
    assert not known.is_new(made, ACCOUNT, REPOSITORY)


def test_both_forms_are_one_name_and_a_new_id_has_that_of_a_first_location() -> None:
    known = ids()
    made = known.new(ACCOUNT, REPOSITORY)
    name, is_first = name_in(made)
    assert is_first
    assert is_upload_id(name)
    assert name != made == in_first_location(name) == in_first_location(made)
    assert (name_in(name), upload_name(made), upload_name("no id")) == ((name, False), name, "no id")
    assert known.is_new(name, ACCOUNT, REPOSITORY)


def test_no_two_ids_are_alike() -> None:
    known = ids()
    assert len({known.new(ACCOUNT, REPOSITORY) for _ in range(1000)}) == 1000
