"""What every test may ask for, and what every test is held to.

`needs(tool)` skips a test by the program's name, and with CI=true a skip of any kind is a failure. Async tests run
under the watch of `support.watch`. `server` is a real one, shared by a session's tests: each takes repository names of
its own.
"""

from __future__ import annotations

import gc
import inspect
import os
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from support import balancer, postgresql
from support.cluster import Cluster
from support.metadata import return_databases
from support.moto import Moto
from support.programs import find
from support.seaweed import Seaweed, weed
from support.server import Server
from support.watch import watch

IN_CI = os.environ.get("CI") == "true"

settings.register_profile("busy", deadline=None)  # a deadline measures the machine, which is shared
settings.load_profile("busy")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos-seconds", type=float, default=60.0, help="how long tests/chaos kills processes")
    parser.addoption("--chaos-cluster-seconds", type=float, default=90.0, help="the same, over three nodes")
    parser.addoption(
        "--fuzz-requests", type=int, default=30_000, help="how many requests tests/fuzz draws for the doors"
    )
    parser.addoption(
        "--fuzz-seed", type=int, default=0, help="the seed of the first 10,000 of them; the next is one more"
    )
    parser.addoption("--model-runs", type=int, default=40, help="how often tests/fuzz holds both doors against a model")
    parser.addoption("--schedules", type=int, default=1000, help="how many schedules of late writers tests/fuzz draws")
    parser.addoption("--chaos-replication-seconds", type=float, default=30.0, help="the same, between two regions")
    parser.addoption("--chaos-seed", type=int, default=None, help="draw what tests/chaos drew under this seed")
    parser.addoption("--policy-pairs", type=int, default=30_000, help="how many questions evaluator and twin are asked")
    parser.addoption("--policy-seed", default=None, help="draw the policies that were drawn under this seed")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for program in marker.args:
            if find(program) is None and not (program == "weed" and weed()):
                pytest.skip(f"needs {program}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and CI skips nothing: {report.longrepr}"
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Server):
                report.sections.append((f"server at {value.address}", value.daemon.tail()))
            if isinstance(value, Cluster):
                report.sections.append((f"cluster at {value.address}", value.tails()))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What stands for ten thousand tests is no garbage. To look through it takes the collector most of a second, in
    which every thread stands still: PostgreSQL has ended transactions meanwhile, for idling."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        _spare_the_collector()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Nor is what one file's tests have left for the next ones, such as models of botocore's."""
    try:
        return (yield)
    finally:
        if nextitem is None or nextitem.path != item.path:
            _spare_the_collector()


def _spare_the_collector() -> None:
    """What is there now and no garbage is not looked through again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    postgresql.remove_shared()


@pytest.fixture(autouse=True)
def _databases(request: pytest.FixtureRequest) -> Iterator[None]:
    """The databases in a test's own folder are the next test's, after all else of it has ended."""
    folder: Path | None = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if folder is not None:
        return_databases(folder)


@pytest.fixture(autouse=True)
def _unblocked(request: pytest.FixtureRequest) -> Iterator[None]:
    """An async test in which our code blocks the event loop fails."""
    if not inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        yield
        return
    watching = watch()
    watching.activate()
    try:
        yield
    finally:
        watching.deactivate()


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Start servers with `Server.start`'s arguments after the first; all are stopped at the session's end."""
    started: list[Server] = []

    def start(data: Path | None = None, **settings: object) -> Server:
        server = Server.start(data or tmp_path_factory.mktemp("server") / "data", **settings)  # type: ignore[arg-type]  # passed through
        started.append(server)
        return server

    yield start
    for server in started:
        if server.daemon.process.poll() is None:
            server.stop()


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """A running SeaweedFS with a bucket, shared by a session's tests: each takes a prefix of its own."""
    if weed() is None:
        pytest.skip("needs weed")
    started = Seaweed.start(tmp_path_factory.mktemp("seaweed") / "data")
    yield started
    started.stop()


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    """A running KMS, shared by a session's tests: each makes keys of its own."""
    started = Moto.start(tmp_path_factory.mktemp("moto") / "moto.log")
    yield started
    started.stop()


@pytest.fixture(scope="session")
def server(start_server: Callable[..., Server]) -> Server:
    """A running server with two workers, watched for blocking calls."""
    return start_server(workers=2, watched=True)


@pytest.fixture(scope="session")
def s3_settings(seaweed: Seaweed) -> dict[str, str]:
    """What `s3_server` was started with, for commands beside it."""
    return seaweed.settings(f"{uuid.uuid4().hex[:8]}/")


@pytest.fixture(scope="session")
def s3_server(start_server: Callable[..., Server], s3_settings: dict[str, str]) -> Server:
    """The same as `server`, on S3."""
    return start_server(workers=2, watched=True, extra=s3_settings)


@pytest.fixture(scope="session")
def cluster(seaweed: Seaweed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes on S3 and PostgreSQL behind nginx, watched for blocking calls; they must end in order."""
    for program in (balancer.PROGRAM, postgresql.PROGRAM):
        if find(program) is None:
            pytest.skip(f"needs {program}")
    folder = tmp_path_factory.mktemp("cluster")
    started = Cluster.begin(folder, postgresql.shared(), seaweed, watched=True)
    yield started
    started.finish()


@pytest.fixture(scope="session")
def password(server: Server) -> str:
    """A password for user AWS at `server`, good for the whole session."""
    return server.password()


@pytest.fixture
def repository() -> str:
    """A repository name that no other test has."""
    return f"test/{uuid.uuid4().hex[:12]}"
