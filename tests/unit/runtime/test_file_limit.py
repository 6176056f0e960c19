"""How many connections the limit of open files allows, and who hears when that is fewer than set."""

from __future__ import annotations

import resource

import pytest
import structlog

from proxy.app import processes
from proxy.config import loader
from proxy.runtime import file_limit


@pytest.mark.parametrize(
    ("files", "wanted", "found"), [(65_536, 10_000, 10_000), (1024, 10_000, 448), (256, 10_000, 64), (64, 10, 1)]
)
def test_connections_end_at_half_of_the_files_that_are_left(files: int, wanted: int, found: int) -> None:
    assert file_limit.connections_within(files, wanted) == found


def test_the_soft_limit_becomes_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without a limit counts as one with a very high one."""
    made = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: made.append(limits))
    for hard, files in ((4096, 4096), (resource.RLIM_INFINITY, 2**31)):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, hard=hard: (1024, hard))
        assert file_limit.raise_file_limit() == files
    assert made == [(4096, 4096), (resource.RLIM_INFINITY, resource.RLIM_INFINITY)]


@pytest.mark.parametrize("given", [None, 9000])
def test_fewer_connections_than_set_are_said_in_the_log(given: int | None) -> None:
    """The default is silently what fits."""
    settings = loader.load(flags={"server.connections": given}, environ={})
    with structlog.testing.capture_logs() as logs:
        limited = processes._with_file_limit(settings, 1024)
    assert limited.server.connections == 448
    assert [entry["connections"] for entry in logs] == ([448] if given else [])
