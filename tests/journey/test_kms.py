"""A registry whose keys are in KMS: without a key file, through an outage, to KMS and back; and nodes that differ."""

from __future__ import annotations

import http.client
import json
import os
import random
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.connections import Connection
from support.cut_connection import CutLine
from support.moto import Moto
from support.programs import Daemon, run
from support.registry import digest_of
from support.server import Server, free_port

Start = Callable[..., Server]
REPOSITORY = "team/app"
OCTETS = {"Content-Type": "application/octet-stream"}
SECRET = "shared-by-proxies-and-service"


@pytest.fixture
def line_to_kms(moto: Moto) -> Iterator[CutLine]:
    line = CutLine(moto.port)
    yield line
    line.close()


def wharfage(*words: str | Path, extra: dict[str, str], ok: bool = True) -> str:
    done = run(sys.executable, "-m", "proxy", *words, extra=extra, ok=ok)
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def readiness(address: str, query: str = "") -> tuple[int, dict[str, Any]]:
    line = http.client.HTTPConnection(address, timeout=10)
    try:
        line.request("GET", f"/readyz{query}")
        answer = line.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        line.close()


def until(found: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)


def content(number: int) -> bytes:
    return random.Random(number).randbytes(300_000)


def providers(data: Path) -> set[str]:
    """Of every blob's data key, as the rows have it."""
    with closing(sqlite3.connect(f"file:{data / 'metadata.db'}?mode=ro", uri=True)) as rows:
        return {provider for (provider,) in rows.execute("SELECT provider_id FROM blobs")}


def test_an_outage_of_kms_stops_new_blobs_only_and_ends_without_a_restart(
    start_server: Start, moto: Moto, line_to_kms: CutLine, tmp_path: Path
) -> None:
    """There is no key file. What was opened a moment ago is served; a push is told clearly, and when to come again."""
    settings = moto.settings(moto.new_key(), endpoint=f"http://127.0.0.1:{line_to_kms.port}")
    server = start_server(tmp_path / "data", workers=1, watched=True, extra=settings)
    assert not os.listdir(server.data / "keys")
    password = server.password()
    line = Connection(server, password)
    digest = line.push_blob(REPOSITORY, content(1))
    assert providers(server.data) == {"aws-kms"}

    line_to_kms.cut()
    began = time.monotonic()
    refused = line.ask("PATCH", line.begin(REPOSITORY), content(2), OCTETS).expect(503)
    assert time.monotonic() - began < 12
    assert refused.code() == "UNAVAILABLE"
    assert int(refused.headers["Retry-After"]) > 0
    assert "key management service does not answer" in refused.json()["errors"][0]["message"]
    assert line.ask("GET", f"/v2/{REPOSITORY}/blobs/{digest}").expect(200).body == content(1)
    until(lambda: readiness(server.address)[0] == 503)
    assert "key management service" in readiness(server.address)[1]["key_provider"]
    assert readiness(server.address, "?exclude=key_provider")[0] == 200

    server.metadata_process().kill()  # it comes back without KMS
    assert line.ask("GET", f"/v2/{REPOSITORY}/blobs/{digest}").expect(200).body == content(1)
    line.ask("HEAD", f"/v2/{REPOSITORY}/blobs/{digest}").expect(200)

    line.close()
    [worker] = server.workers()
    worker.kill()  # the next one cannot open tokens before KMS answers, and is started until it does
    until(lambda: [each.pid for each in server.workers()] not in ([], [worker.pid]))
    line_to_kms.mend()
    until(server.is_ready)
    line = Connection(server, password)
    again = line.push_blob(REPOSITORY, content(2))
    assert line.ask("GET", f"/v2/{REPOSITORY}/blobs/{again}").expect(200).body == content(2)
    line.close()
    said = server.daemon.log.read_text()
    assert settings["WHARFAGE_KEYS_KMS_SECRET_ACCESS_KEY"] not in said
    assert server.stop() == 0


def test_a_registry_moves_to_kms_and_back_while_it_serves(start_server: Start, moto: Moto, tmp_path: Path) -> None:
    """Rows only; passwords and open uploads go on; in the end neither side needs the other any more."""
    arn = moto.new_key()
    kms, both = moto.settings(arn), moto.settings(arn, provider="local")
    data = tmp_path / "data"
    first = start_server(data, workers=1, watched=True, extra=both)
    password = first.password()
    line = Connection(first, password)
    blobs = {line.push_blob(REPOSITORY, content(number)): number for number in range(3)}
    place = line.begin(REPOSITORY)
    place = line.ask("PATCH", place, content(10), OCTETS).expect(202).headers["Location"]

    def served(server: Server) -> None:
        asking = Connection(server, password)
        for digest, number in blobs.items():
            assert asking.ask("GET", f"/v2/{REPOSITORY}/blobs/{digest}").expect(200).body == content(number)
        asking.close()

    objects = {path: path.read_bytes() for path in first.objects()}
    said = wharfage("rewrap", "--data", data, extra=kms)
    assert "4 data keys rewrapped, 0 were already, 0 changed meanwhile, 0 failed; 1 secrets resealed" in said
    assert providers(data) == {"aws-kms"}
    assert all(path.read_bytes() == before for path, before in objects.items())
    served(first)
    line.ask("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest_of(content(10))}").expect(201)
    blobs[digest_of(content(10))] = 10
    blobs[line.push_blob(REPOSITORY, content(4))] = 4  # by a server that still wraps by the key file
    line.close()
    assert first.stop() == 0

    second = start_server(data, workers=1, watched=True, extra=kms)
    served(second)
    assert "1 data keys rewrapped, 4 were already" in wharfage("rewrap", "--resume", "--data", data, extra=kms)
    assert providers(data) == {"aws-kms"}
    assert second.stop() == 0
    (data / "keys" / "master.json").unlink()
    third = start_server(data, workers=1, watched=True, extra=kms)
    password = third.password()  # the administrator's secret needs no key file either
    served(third)
    assert "are in KMS" in wharfage("key", "export", "--data", data, extra=kms, ok=False)

    assert "key new --save" in wharfage("rewrap", "--data", data, extra=both, ok=False)
    assert "copy that file" in wharfage("key", "new", "--save", "--data", data, extra=both)
    assert "5 data keys rewrapped" in wharfage("rewrap", "--data", data, extra=both)
    assert len(json.loads(wharfage("key", "export", "--data", data, extra={}))) == 1  # the copies are still whole
    assert providers(data) == {"wharfage"}
    assert third.stop() == 0
    fourth = start_server(data, workers=1, watched=True)
    password = fourth.password()
    served(fourth)
    assert fourth.stop() == 0


def test_nodes_with_different_keys_do_not_serve_together_and_say_so(tmp_path: Path) -> None:
    """One line names the node's key, the registry's and what to copy; a running node notices a rotation elsewhere."""
    secret = {"WHARFAGE_METADATA_SECRET": SECRET}
    service, objects = f"127.0.0.1:{free_port()}", tmp_path / "objects"
    running: list[Daemon] = []

    def start(*words: str | Path, name: str) -> Daemon:
        extra = secret | {"WHARFAGE_STORAGE_PATH": str(objects)}
        daemon = Daemon.start([sys.executable, "-m", "proxy", *words], tmp_path / f"{name}.log", extra)
        running.append(daemon)
        return daemon

    def proxy(name: str) -> tuple[Daemon, str]:
        address = f"127.0.0.1:{free_port()}"
        words: list[str | Path] = [
            "proxy",
            "--data",
            tmp_path / name,
            "--metadata-url",
            f"http://{service}",
            "--listen",
            address,
        ]
        return start(*words, "--workers", "1", name=name), address

    def is_ready(address: str) -> bool:
        try:
            return readiness(address)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def share(name: str) -> Path:
        """Give a node the metadata node's key file and store id, as an operator would."""
        keys = tmp_path / name / "keys"
        keys.mkdir(parents=True, exist_ok=True)
        for what in ("keys/master.json", "store-id"):
            if (tmp_path / "meta" / what).exists():
                target = tmp_path / name / what
                target.touch(mode=0o600)
                target.write_bytes((tmp_path / "meta" / what).read_bytes())
        return keys / "master.json"

    try:
        meta = start("metadata", "--data", tmp_path / "meta", "--listen", service, name="meta")
        meta.wait_until(lambda: "is ready" in meta.log.read_text())

        empty, _ = proxy("empty")
        assert empty.process.wait(60) == 1
        assert "master.json is not there" in empty.tail()
        assert not (tmp_path / "empty" / "keys" / "master.json").exists()

        stranger = share("stranger")
        entry = json.loads(wharfage("key", "new", extra={}))
        stranger.write_text(json.dumps({"version": 1, "keys": [entry]}))
        other, _ = proxy("stranger")
        assert other.process.wait(60) == 1
        said = other.tail()
        theirs = json.loads((tmp_path / "meta" / "keys" / "master.json").read_text())["keys"][0]["name"]
        assert f"lacks the master key {theirs}" in said
        assert entry["name"] in said
        assert f"copy {stranger} from a node that serves" in said
        assert entry["key_base64"] not in said
        assert "Traceback" not in said

        share("same")
        same, address = proxy("same")
        same.wait_until(lambda: is_ready(address))
        wharfage("rewrap", "--data", tmp_path / "meta", extra=secret | {"WHARFAGE_METADATA_URL": f"http://{service}"})
        until(lambda: readiness(address)[0] == 503, 40)
        assert "lacks the master key" in readiness(address)[1]["key"]
        share("same")
        until(lambda: is_ready(address), 20)
    finally:
        for daemon in reversed(running):
            daemon.stop()
