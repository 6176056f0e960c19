"""A store that is not there: 503, nothing hidden, nothing removed, and all whole again once it is back."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.connections import Connection
from support.programs import run
from support.registry import OCI_MANIFEST, digest_of, image_manifest
from support.server import Server


def check(server: Server, *more: str, ok: bool) -> str:
    done = run(sys.executable, "-m", "proxy", "check", "--data", server.data, *more, ok=ok)
    return done.stdout + done.stderr


def test_an_unmounted_store_hides_nothing_and_is_refused_at_the_next_start(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    """Pulls and pushes answer 503 meanwhile; with it back all is served; a start without it is refused in one line."""
    own = start_server(tmp_path / "data", workers=1, watched=True)
    line = Connection(own, own.password())
    blob = os.urandom(300_000)
    digest = line.push_blob("team/app", blob)
    config = line.push_blob("team/app", b"{}")
    manifest = image_manifest(b"{}", [blob])
    line.ask("PUT", "/v2/team/app/manifests/v1", manifest, {"Content-Type": OCI_MANIFEST}).expect(201)

    objects, away = own.data / "objects", tmp_path / "away"
    away.mkdir()
    for entry in objects.iterdir():
        entry.rename(away / entry.name)
    assert line.ask("GET", f"/v2/team/app/blobs/{digest}").expect(503).code() == "UNAVAILABLE"
    assert line.ask("GET", f"/v2/team/app/blobs/{config}").expect(503).headers["Retry-After"]
    fresh = os.urandom(1000)
    octets = {"Content-Type": "application/octet-stream"}
    line.ask("POST", f"/v2/team/app/blobs/uploads/?digest={digest_of(fresh)}", fresh, octets).expect(503)
    own.daemon.wait_until(lambda: not own.is_ready(), 10)  # a good probe answers again for a second
    assert "is it mounted at" in line.ask("GET", "/readyz").expect(503).json()["store"]
    assert "is it mounted at" in check(own, "--repair", ok=False)

    for entry in away.iterdir():
        entry.rename(objects / entry.name)
    assert line.ask("GET", f"/v2/team/app/blobs/{digest}").expect(200).body == blob
    assert "2 blobs ok" in check(own, ok=True)
    line.close()
    assert own.stop() == 0

    shutil.move(objects, away / "objects")
    with pytest.raises(AssertionError, match="ended with 1") as refused:
        start_server(own.data, workers=1)
    assert "the store is not the one that this registry's rows are about (is it mounted at" in str(refused.value)
    assert "Traceback" not in str(refused.value)
    shutil.move(away / "objects", objects)
    again = start_server(own.data, workers=1)
    line = Connection(again, again.password())
    assert line.ask("GET", f"/v2/team/app/blobs/{digest}").expect(200).body == blob
    line.close()
    assert again.stop() == 0
