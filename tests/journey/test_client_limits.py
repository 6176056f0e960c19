"""What one client may cost a real server: connections, bodies before their proof, failed logins."""

from __future__ import annotations

import base64
import http.client
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime

import pytest

from support.server import Server, free_port

GREEDY, OTHER = "127.0.0.2", "127.0.0.3"  # two clients: all of 127.0.0.0/8 is this machine
FILES = 1024
IDLE = 3000

Start = Callable[..., Server]


@pytest.fixture
def many_files() -> Iterator[None]:
    """This process may hold what the greedy client does."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < IDLE + FILES:
        pytest.skip(f"needs a limit of {IDLE + FILES} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def dial(server: Server, client: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30, source_address=(client, 0))


def status(server: Server, client: str, path: str, port: int = 0, headers: Mapping[str, str] | None = None) -> int:
    """Of a GET on a connection of its own."""
    line = http.client.HTTPConnection("127.0.0.1", port or server.port, timeout=30, source_address=(client, 0))
    with closing(line):
        line.request("GET", path, headers=headers or {})
        answer = line.getresponse()
        answer.read()
        return answer.status


@pytest.mark.usefixtures("many_files")
def test_three_thousand_idle_connections_at_a_limit_of_1024_files_keep_nobody_out(start_server: Start) -> None:
    """Other clients and probes are answered, and a connection with a request under way is not closed."""
    server = start_server(workers=2, files=FILES)
    with ExitStack() as held:
        busy = held.enter_context(closing(dial(server, GREEDY)))
        busy.sendall(b"GET /v2/ HTTP/1.1\r\nHost: registry\r\nContent-Length: 1\r\n\r\n")  # its body never comes
        for _ in range(IDLE):
            held.enter_context(closing(dial(server, GREEDY)))
        for _ in range(50):
            assert status(server, OTHER, "/v2/") == 401
            assert status(server, OTHER, "/healthz") == 200
        assert busy.recv(100).startswith(b"HTTP/1.1 401 ")
        for worker in server.workers():
            assert worker.num_fds() < FILES
            assert worker.rlimit(resource.RLIMIT_NOFILE) == (FILES, FILES)
    assert server.daemon.process.poll() is None


def test_the_file_limit_is_raised_to_what_the_system_allows(start_server: Start) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    server = start_server(workers=1, extra={"WHARFAGE_SERVER_PROBES": ""})
    [worker] = server.workers()
    assert worker.rlimit(resource.RLIMIT_NOFILE) == (hard, hard)


def test_probes_have_a_listener_of_their_own_where_one_is_set(start_server: Start) -> None:
    """It answers probes and nothing else, also while every connection of the other one is busy."""
    port = free_port()
    limits = {"WHARFAGE_SERVER_PROBES": f"127.0.0.1:{port}", "WHARFAGE_SERVER_CONNECTIONS": "2"}
    server = start_server(workers=1, extra=limits)
    with ExitStack() as held:
        for _ in range(2):
            line = held.enter_context(closing(dial(server, GREEDY)))
            line.sendall(b"POST / HTTP/1.1\r\nHost: registry\r\nContent-Length: 10000\r\n\r\nAction=")
        deadline = time.monotonic() + 20
        while status(server, OTHER, "/v2/") != 503:
            assert time.monotonic() < deadline
        found = {path: status(server, OTHER, path, port) for path in ("/healthz", "/readyz", "/metrics", "/v2/")}
        assert found == {"/healthz": 200, "/readyz": 200, "/metrics": 200, "/v2/": 404}
        assert status(server, OTHER, "/readyz") == 200  # by the reserve
    assert server.stop() == 0


BODIES = 200
BODY = b'{"a":"' + b"a" * 1_000_000 + b'"}'
MIB = 2**20


def forged(server: Server, body: bytes = BODY) -> bytes:
    """The head of a call that names a real access key and has a wrong signature."""
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{server.credentials()[0]}/{moment[:8]}/us-east-1/ecr/aws4_request"
    signed = f"Credential={scope}, SignedHeaders=host;x-amz-date;x-amz-target, Signature={'0' * 64}"
    lines = (
        "POST / HTTP/1.1",
        f"Host: {server.address}",
        "X-Amz-Target: AmazonEC2ContainerRegistry_V20150921.DescribeRepositories",
        f"X-Amz-Date: {moment}",
        f"Authorization: AWS4-HMAC-SHA256 {signed}",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join([*lines, "", ""]).encode()


def unauthenticated(server: Server) -> bytes:
    lines = ("PUT /v2/a/b/manifests/c HTTP/1.1", f"Host: {server.address}", f"Content-Length: {len(BODY)}")
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize("head", [forged, unauthenticated])
def test_bodies_that_nobody_proves_cost_a_bounded_sum_which_is_given_back(
    start_server: Start, head: Callable[[Server], bytes]
) -> None:
    """200 of 1 MB, all but their last byte: other clients are served meanwhile, and then memory is what it was."""
    server = start_server(workers=1)
    assert server.password()
    [worker] = server.workers()
    idle = worker.memory_info().rss
    most = 0
    with ExitStack() as held:
        lines = [held.enter_context(closing(dial(server, GREEDY))) for _ in range(BODIES)]
        for line in lines:
            line.setblocking(False)
        unsent = dict.fromkeys(lines, head(server) + BODY[:-1])
        deadline = time.monotonic() + 3
        while unsent and time.monotonic() < deadline:
            for line in select.select([], list(unsent), [], 0.1)[1]:
                with suppress(BlockingIOError):
                    try:
                        unsent[line] = unsent[line][line.send(unsent[line]) :]
                    except ConnectionError:  # it was refused
                        unsent[line] = b""
                if not unsent[line]:
                    del unsent[line]
            most = max(most, worker.memory_info().rss)
        assert server.password()
        most = max(most, worker.memory_info().rss)
    assert most - idle < 64 * MIB, f"{(most - idle) / MIB:.0f} MiB"
    deadline = time.monotonic() + 30
    while (kept := worker.memory_info().rss - idle) > 16 * MIB:
        assert time.monotonic() < deadline, f"{kept / MIB:.0f} MiB are kept"
        time.sleep(0.2)


def login(server: Server, client: str, password: str) -> int:
    basic = base64.b64encode(f"AWS:{password}".encode()).decode()
    return status(server, client, "/v2/", headers={"Authorization": f"Basic {basic}"})


def test_a_client_that_fails_to_log_in_has_to_wait_and_others_do_not(start_server: Start) -> None:
    """With `login_failures` as set; what was counted stands in the metrics."""
    server = start_server(workers=1, extra={"WHARFAGE_SERVER_LOGIN_FAILURES": "3"})
    password = server.password()
    assert [login(server, GREEDY, "wrong") for _ in range(6)] == [401] * 4 + [429] * 2
    assert login(server, OTHER, password) == 200
    assert login(server, GREEDY, password) == 200
    line = http.client.HTTPConnection(server.address, timeout=30)
    with closing(line):
        line.request("GET", "/metrics")
        said = line.getresponse().read().decode()
    assert 'wharfage_logins_failed_total{door="oci"} 4.0' in said
    assert 'wharfage_logins_refused_total{door="oci"} 2.0' in said
    assert "logins are refused for a while" in server.daemon.log.read_text()
