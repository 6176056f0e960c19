"""The processes of `wharfage serve`: they die and come back, drain and end, and say what operators need."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import psutil
import pytest

from support.programs import ROOT, Daemon, run
from support.server import Server, free_port

Start = Callable[..., Server]
LAYER = 48 * 1024 * 1024  # more than socket buffers hold, so that a pull that is not read stays running


@pytest.fixture
def fresh(start_server: Start) -> Iterator[Server]:
    """A server of this test alone: what happens to its processes harms no other."""
    started = start_server(workers=2)
    yield started
    started.stop()


def wharfage(*words: str | Path, ok: bool = True, extra: dict[str, str] | None = None) -> CompletedProcess[str]:
    return run(sys.executable, "-m", "proxy", *words, ok=ok, extra=extra)


def ask(server: Server, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    line = http.client.HTTPConnection(server.address, timeout=30)
    try:
        line.request("GET", path, headers=headers or {})
        answer = line.getresponse()
        return answer.status, answer.read()
    finally:
        line.close()


def basic(password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"AWS:{password}".encode()).decode()}


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def metric(server: Server, name: str) -> float:
    """A counter's value, summed over its labels."""
    text = ask(server, "/metrics")[1].decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.M))


def push_layer(server: Server, size: int = LAYER) -> str:
    """The path of a fresh blob of that size."""
    content = os.urandom(1024) * (size // 1024)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    headers = basic(server.password())
    line = http.client.HTTPConnection(server.address, timeout=60)
    try:
        line.request("POST", "/v2/team/app/blobs/uploads/", headers=headers)
        begun = line.getresponse()
        begun.read()
        line.request("PUT", f"{begun.headers['Location']}?digest={digest}", body=content, headers=headers)
        done = line.getresponse()
        assert done.status == 201, done.read()
    finally:
        line.close()
    return f"/v2/team/app/blobs/{digest}"


def begin_slow_pull(server: Server, path: str) -> socket.socket:
    """A pull whose header has come and whose body is not read."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    line.settimeout(30)
    line.connect(("127.0.0.1", server.port))
    headers = "".join(f"{name}: {value}\r\n" for name, value in basic(server.password()).items())
    line.sendall(f"GET {path} HTTP/1.1\r\nHost: {server.address}\r\n{headers}\r\n".encode())
    assert line.recv(12, socket.MSG_PEEK | socket.MSG_WAITALL) == b"HTTP/1.1 200"
    return line


def read_all(line: socket.socket) -> int:
    """Bytes that come until the end, header included."""
    total = 0
    try:
        while chunk := line.recv(1 << 20):
            total += len(chunk)
    except ConnectionResetError:
        pass
    return total


def refuses(server: Server) -> bool:
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
    except OSError:
        return True
    return False


# ---- dying and coming back -----------------------------------------------------------------------------------------


def test_a_killed_worker_is_started_again_and_counted(fresh: Server) -> None:
    """kill -9 of a worker costs its connections only."""
    before = {worker.pid for worker in fresh.workers()}
    os.kill(min(before), signal.SIGKILL)
    assert ask(fresh, "/healthz")[0] == 200
    until(lambda: len({worker.pid for worker in fresh.workers()} - {min(before)}) == len(before))
    assert ask(fresh, "/readyz")[0] == 200
    assert metric(fresh, "wharfage_worker_restarts_total") == 1
    assert "a process died and is started again" in fresh.daemon.log.read_text()


def test_a_killed_metadata_process_is_started_again(fresh: Server) -> None:
    """The next request waits for it and is answered."""
    password = fresh.password()
    os.kill(fresh.metadata_process().pid, signal.SIGKILL)
    status, body = ask(fresh, "/v2/_catalog", basic(password))
    assert (status, json.loads(body)) == (200, {"repositories": []})
    assert ask(fresh, "/readyz")[0] == 200


def test_children_end_with_a_killed_supervisor_and_the_next_start_works(start_server: Start) -> None:
    """After kill -9 of the supervisor the same directory and port serve again, with the same credentials."""
    first = start_server(workers=2)
    password, children = first.password(), first.processes()[1:]
    os.kill(first.daemon.process.pid, signal.SIGKILL)
    first.daemon.process.wait()
    until(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children))
    second = start_server(first.data, workers=2, port=first.port)
    assert ask(second, "/v2/", basic(password))[0] == 200
    assert second.stop() == 0


# ---- stopping ------------------------------------------------------------------------------------------------------


def test_sigterm_lets_a_running_pull_end_and_takes_no_new_connection(start_server: Start) -> None:
    """A pull that was running when the signal came is whole; exit status 0."""
    server = start_server(workers=2)
    line = begin_slow_pull(server, push_layer(server))
    server.daemon.process.send_signal(signal.SIGTERM)
    until(lambda: refuses(server))
    assert server.daemon.process.poll() is None
    with line:
        assert read_all(line) > LAYER
    assert server.daemon.process.wait(20) == 0


def test_what_does_not_end_within_the_drain_is_cut_and_the_exit_is_clean(start_server: Start) -> None:
    """The body is broken, never short and clean; exit status 0."""
    server = start_server(workers=1, extra={"WHARFAGE_SERVER_DRAIN_SECONDS": "0.5"})
    line = begin_slow_pull(server, push_layer(server))
    server.daemon.process.send_signal(signal.SIGTERM)
    assert server.daemon.process.wait(20) == 0
    with line:
        assert read_all(line) < LAYER
    assert "requests abandoned after the drain" in server.daemon.log.read_text()


def test_a_second_signal_does_not_wait(start_server: Start) -> None:
    """Whoever asks twice gets an end at once, of every process."""
    server = start_server(workers=2)
    line = begin_slow_pull(server, push_layer(server))
    family = server.processes()
    server.daemon.process.send_signal(signal.SIGTERM)
    until(lambda: refuses(server))
    server.daemon.process.send_signal(signal.SIGTERM)
    assert server.daemon.process.wait(5) == 1
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)
    line.close()


# ---- starting ------------------------------------------------------------------------------------------------------


def test_a_target_with_its_host_finds_the_same_doors(server: Server) -> None:
    """RFC 9112, 3.2.2: a server must take absolute-form, which clients of a forward proxy send."""
    assert ask(server, f"http://{server.address}/v2/")[0] == ask(server, "/v2/")[0] == 401
    assert ask(server, f"http://{server.address}/healthz")[0] == 200


def test_a_second_server_on_one_data_directory_is_refused(server: Server) -> None:
    """One line that names the directory and the pid that works in it."""
    refused = run(
        sys.executable,
        "-m",
        "proxy",
        "serve",
        "--data",
        server.data,
        "--listen",
        "127.0.0.1:0",
        ok=False,
        cwd=Path.cwd(),
    )
    assert refused.returncode == 1
    assert f"pid {server.daemon.process.pid}" in refused.stderr
    assert str(server.data) in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_port_in_use_is_refused_by_its_name(server: Server, tmp_path: Path) -> None:
    """One line, no trace."""
    refused = wharfage("serve", "--data", tmp_path, "--listen", server.address, ok=False)
    assert f"cannot listen on {server.address}" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_start_up_says_where_and_how_and_no_secret(start_server: Start) -> None:
    """Address, directory, the login lines; and neither screen nor log holds a secret, after a login and a push too."""
    server = start_server(workers=1)
    password = server.password()
    assert ask(server, "/v2/", basic(password))[0] == 200
    assert ask(server, "/v2/", basic("wrong"))[0] == 401
    server.stop()
    said = server.daemon.log.read_text()
    assert server.url in said
    assert f"aws ecr get-login-password --endpoint-url {server.url} | docker login -u AWS" in said
    assert f"wharfage token --data {server.data}" in said
    keys = json.loads((server.data / "keys" / "master.json").read_text())["keys"]
    for secret in (server.credentials()[1], password, *(key["key_base64"] for key in keys)):
        assert secret not in said


def test_the_first_start_makes_private_credentials_and_later_ones_keep_them(start_server: Start) -> None:
    """A password of before a restart is good after it."""
    first = start_server(workers=1)
    key, password = first.credentials(), first.password()
    assert stat.S_IMODE((first.data / "credentials").stat().st_mode) == 0o600
    assert first.stop() == 0
    second = start_server(first.data, workers=1)
    assert second.credentials() == key
    assert ask(second, "/v2/", basic(password))[0] == 200


def test_the_administrators_key_can_be_given(start_server: Start) -> None:
    """WHARFAGE_ACCESS_KEY_ID and its secret take the place of the file, which is not written."""
    secret = "given-secret-of-forty-characters-exactly"
    given = {"WHARFAGE_ACCESS_KEY_ID": "AKIA7777777777777777", "WHARFAGE_SECRET_ACCESS_KEY": secret}
    server = start_server(workers=1, extra=given)
    assert not (server.data / "credentials").exists()
    token = wharfage("token", "--data", server.data, extra=given).stdout.strip()
    assert ask(server, "/v2/", basic(token))[0] == 200
    server.stop()
    assert secret not in server.daemon.log.read_text()


def test_the_pure_twin_is_announced_in_one_loud_line(start_server: Start) -> None:
    """Who runs without the compiled extension knows it, with its speed."""
    server = start_server(workers=2, extra={"WHARFAGE_PURE": "1"})
    server.stop()
    loud = [line for line in server.daemon.log.read_text().splitlines() if "PURE PYTHON" in line]
    assert len(loud) == 1
    assert re.search(r"at [\d,]+ MB/s", loud[0])


# ---- probes --------------------------------------------------------------------------------------------------------


def test_readyz_says_which_part_is_not_ready_while_healthz_stays_well(start_server: Start) -> None:
    """A metadata process that hangs and a store that is gone are told apart by name, with 503."""
    server = start_server(workers=1)
    hanging = server.metadata_process()
    hanging.suspend()
    try:
        status, body = ask(server, "/readyz")
        assert ask(server, "/healthz") == (200, b"ok\n")
    finally:
        hanging.resume()
    told = json.loads(body)
    assert (status, told["ready"], told["store"], told["key"]) == (503, False, "ok", "ok")
    assert told["metadata"] != "ok"
    until(lambda: ask(server, "/readyz")[0] == 200)


def test_the_charts_readiness_probe_excludes_parts_that_there_are(start_server: Start) -> None:
    """A name that the server does not know would be 400, and no pod would ever be ready."""
    chart = (ROOT / "deploy" / "helm" / "wharfage" / "templates" / "proxy.yaml").read_text()
    [path] = re.findall(r'path: "(/readyz[^"]*)"', chart)
    status, body = ask(start_server(workers=1), path)
    assert (status, "not asked" in json.loads(body).values()) == (200, True)


def test_metrics_are_summed_over_all_workers(start_server: Start) -> None:
    """Requests that different workers answered are one sum, whoever is asked for it."""
    server = start_server(workers=2)
    before = metric(server, "wharfage_http_requests_total")
    for _ in range(20):
        ask(server, "/v2/")
    until(lambda: metric(server, "wharfage_http_requests_total") >= before + 20)  # a worker counts some together
    counted = b'wharfage_http_requests_total{door="oci",method="GET",status="401"} 20.0'
    until(lambda: counted in ask(server, "/metrics")[1])


# ---- apart ---------------------------------------------------------------------------------------------------------


def test_metadata_and_proxy_run_apart_over_tcp_with_a_secret(tmp_path: Path) -> None:
    """A proxy in a directory of its own, given the master keys, serves what the service on TCP knows."""

    secret = {"WHARFAGE_METADATA_SECRET": "a-shared-secret-of-some-length"}
    service, door = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    there, here = tmp_path / "there", tmp_path / "here"
    python = [sys.executable, "-m", "proxy"]
    metadata = Daemon.start(
        [*python, "metadata", "--data", there, "--listen", service], tmp_path / "metadata.log", secret
    )
    try:
        metadata.wait_until(lambda: (there / "credentials").exists())
        (here / "keys").mkdir(parents=True, mode=0o700)
        for name in ("keys/master.json", "credentials"):
            (here / name).touch(0o600)
            (here / name).write_bytes((there / name).read_bytes())
        url = f"http://{service}"
        asked: list[str | Path] = [
            *python,
            "proxy",
            "--data",
            here,
            "--metadata-url",
            url,
            "--listen",
            door,
            "--workers",
            "1",
        ]
        proxy = Daemon.start(asked, tmp_path / "proxy.log", secret)
        try:
            apart = Server(proxy, door, here)
            proxy.wait_until(apart.is_ready)
            assert ask(apart, "/v2/_catalog", basic(apart.password()))[0] == 200
            assert proxy.stop() == 0
        finally:
            proxy.kill()
        assert metadata.stop() == 0
    finally:
        metadata.kill()
