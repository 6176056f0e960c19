"""The epoch page: who sees which change, and when."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.metadata.client.epochs import STRIPES, Epochs, now
from proxy.metadata.db.transaction import Changes

A = "123456789012"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "epochs"


@pytest.fixture
def writer(page: Path) -> Iterator[Epochs]:
    epochs = Epochs(page)
    yield epochs
    epochs.close()


@pytest.fixture
def reader(page: Path, writer: Epochs) -> Iterator[Epochs]:
    epochs = Epochs(page)
    yield epochs
    epochs.close()


def test_the_page_is_private_and_opening_it_again_keeps_what_it_counts(page: Path, writer: Epochs) -> None:
    writer.bump(Changes(repositories={(A, "a/b")}))
    before = page.read_bytes()
    Epochs(page).close()
    assert page.read_bytes() == before
    assert page.stat().st_mode & 0o777 == 0o600


def test_a_change_shows_at_once_in_another_mapping_and_only_in_its_stripe(writer: Epochs, reader: Epochs) -> None:
    before = {name: reader.repository(A, name) for name in ("a/b", "c/d")}
    identity = reader.identity()
    writer.bump(Changes(repositories={(A, "a/b")}))
    assert reader.repository(A, "a/b") != before["a/b"]
    assert reader.repository(A, "c/d") == before["c/d"]
    assert reader.identity() == identity
    writer.bump(Changes(identity=True))
    assert reader.identity() != identity
    assert reader.repository(A, "c/d") == before["c/d"]


def test_one_write_counts_a_stripe_once_however_many_of_its_repositories_changed(writer: Epochs) -> None:
    before = sum(writer.repository(A, str(number)) for number in range(50))
    writer.bump(Changes(repositories={(A, str(number)) for number in range(10 * STRIPES)}))
    assert sum(writer.repository(A, str(number)) for number in range(50)) == before + 50


def test_everything_is_every_stripe(writer: Epochs, reader: Epochs) -> None:
    before = [reader.identity(), *(reader.repository(A, str(number)) for number in range(1000))]
    writer.bump(Changes(everything=True))
    after = [reader.identity(), *(reader.repository(A, str(number)) for number in range(1000))]
    assert all(new == old + 1 for old, new in zip(before, after, strict=True))


def test_a_change_made_by_another_process_is_seen(page: Path, reader: Epochs) -> None:
    before = reader.repository(A, "a/b")
    child = os.fork()
    if child == 0:
        Epochs(page).bump(Changes(repositories={(A, "a/b")}))
        os._exit(0)
    os.waitpid(child, 0)
    assert reader.repository(A, "a/b") == before + 1


def test_a_file_that_is_something_else_is_refused_and_left_alone(page: Path) -> None:
    page.write_bytes(b"something else" * 4000)
    with pytest.raises(ValueError, match="not an epoch page"):
        Epochs(page)
    assert page.read_bytes() == b"something else" * 4000


def test_a_page_without_a_lease_always_speaks_and_one_with_a_lease_until_it_ends(
    writer: Epochs, reader: Epochs
) -> None:
    assert reader.lease_valid()
    writer.grant_lease(now() + 60 * 10**9)
    assert reader.lease_valid()
    writer.grant_lease(now() - 1)
    assert not reader.lease_valid()
    writer.grant_lease(0)
    assert reader.lease_valid()


def test_a_page_keeps_the_name_it_was_given_and_no_other_has_it(page: Path, writer: Epochs, reader: Epochs) -> None:
    assert writer.name() == reader.name()
    other = Epochs(page.with_name("other"))
    assert other.name() != writer.name()
    other.close()


def test_a_look_stands_until_something_of_it_changes(writer: Epochs, reader: Epochs) -> None:
    """Identities, the registry, the repository it took in; nothing else."""
    for changes, stands in (
        (Changes(identity=True), False),
        (Changes(repositories={("1", "")}), False),
        (Changes(repositories={("1", "a")}), False),
        (Changes(repositories={("1", "b"), ("2", "a")}), True),
    ):
        snapshot = reader.snapshot()
        assert snapshot is not None
        snapshot.include("1", "a")
        assert snapshot.is_current()
        writer.bump(changes)
        assert snapshot.is_current() is stands


def test_a_look_stands_only_while_the_page_speaks_and_not_in_grace(writer: Epochs, reader: Epochs) -> None:
    """And none is to be had before."""
    snapshot = reader.snapshot()
    assert snapshot is not None
    for until, grace in ((1, False), (0, True)):
        writer.grant_lease(until, grace=grace)
        assert (snapshot.is_current(), reader.snapshot()) == (False, None)
        writer.grant_lease(0)
        assert snapshot.is_current()
