"""A registry that does not seal and sends its clients to the bucket: crane, ranges, chunks, and sealing again later."""

from __future__ import annotations

import base64
import json
import random
import re
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from email.message import Message
from pathlib import Path

import pytest

from support.connections import Connection
from support.images import MIB, check_layout, write_layout
from support.programs import run
from support.registry import digest_of
from support.seaweed import Seaweed
from support.server import Server

pytestmark = pytest.mark.needs("weed")


@pytest.fixture(scope="module")
def settings(seaweed: Seaweed) -> dict[str, str]:
    """`localhost` stands for the address that clients use, another one than the registry's own."""
    return {
        **seaweed.settings(f"{uuid.uuid4().hex[:8]}/"),
        "WHARFAGE_STORAGE_SEALING": "none",
        "WHARFAGE_STORAGE_REDIRECT": "true",
        "WHARFAGE_STORAGE_PUBLIC_ENDPOINT": f"http://localhost:{seaweed.port}",
    }


@pytest.fixture(scope="module")
def plain_server(start_server: Callable[..., Server], settings: dict[str, str]) -> Server:
    return start_server(workers=2, watched=True, extra=settings)


def counted(server: Server, name: str) -> float:
    with urllib.request.urlopen(f"{server.url}/metrics") as answer:  # noqa: S310 - http, to our own server
        found = re.search(rf"^{re.escape(name)} (\S+)$", answer.read().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def fetch(url: str, **headers: str) -> tuple[int, Message, bytes]:
    """What anybody who has the link gets."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:  # noqa: S310 - http
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


@pytest.mark.clients
@pytest.mark.needs("crane")
def test_crane_pulls_an_image_from_the_bucket_bit_identical(
    plain_server: Server, repository: str, tmp_path: Path
) -> None:
    image = write_layout(tmp_path / "image", 77, (MIB, 20 * MIB))
    basic = base64.b64encode(f"AWS:{plain_server.password()}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {plain_server.address: {"auth": basic}}}))
    extra = {"DOCKER_CONFIG": str(tmp_path)}
    reference = f"{plain_server.address}/{repository}:v1"
    run("crane", "push", image.path, reference, "--insecure", extra=extra)
    before = counted(plain_server, "wharfage_blob_redirects_total")
    run("crane", "pull", "--format=oci", reference, tmp_path / "back", "--insecure", extra=extra)
    check_layout(tmp_path / "back", image)
    assert counted(plain_server, "wharfage_blob_redirects_total") >= before + 3
    assert counted(plain_server, 'wharfage_blob_bytes_total{direction="out"}') == 0


def test_a_link_gives_exactly_the_blob_and_its_ranges_and_dies_when_it_is_changed(
    plain_server: Server, repository: str
) -> None:
    line = Connection(plain_server, plain_server.password())
    content = random.Random(repository).randbytes(3 * MIB)
    digest = line.push_blob(repository, content)
    where = f"/v2/{repository}/blobs/{digest}"
    link = line.ask("GET", where, headers={"Range": "bytes=5-9"}).expect(307).headers["Location"]
    assert link.startswith("http://localhost:")
    status, headers, body = fetch(link, Range="bytes=1000000-1999999")
    assert (status, body) == (206, content[1_000_000:2_000_000])
    assert headers["Content-Range"] == f"bytes 1000000-1999999/{len(content)}"
    status, headers, body = fetch(link)
    assert (status, body, headers["Content-Type"]) == (200, content, "application/octet-stream")
    assert fetch(link.replace("X-Amz-Expires=300", "X-Amz-Expires=3000"))[0] == 403
    assert line.ask("HEAD", where).expect(200).headers["Content-Length"] == str(len(content))
    several = line.ask("GET", where, headers={"Range": "bytes=0-9,100-109"}).expect(206)
    assert content[:10] in several.body
    assert content[100:110] in several.body
    line.close()


def test_chunks_of_several_requests_lie_in_the_bucket_as_one_plain_object_and_a_sealing_server_reads_it(
    start_server: Callable[..., Server], seaweed: Seaweed, settings: dict[str, str], tmp_path: Path
) -> None:
    """Pieces that end inside a part, so that tails wait in rows; then the same registry with the default settings."""
    settings = {**settings, "WHARFAGE_STORAGE_PREFIX": f"{uuid.uuid4().hex[:8]}/"}
    server = start_server(tmp_path / "data", workers=1, watched=True, extra=settings)
    line = Connection(server, server.password())
    content = random.Random(9).randbytes(20 * MIB)
    digest = digest_of(content)
    place = line.begin("team/app")
    for start, stop in ((0, 5), (5, 9 * MIB), (9 * MIB, 20 * MIB)):
        place = line.ask("PATCH", place, content[start:stop]).expect(202).headers["Location"]
    line.ask("PUT", f"{place}?digest={digest}").expect(201)
    assert fetch(line.ask("GET", f"/v2/team/app/blobs/{digest}").expect(307).headers["Location"])[2] == content
    line.close()
    assert server.stop() == 0
    assert content in seaweed.all_under(settings["WHARFAGE_STORAGE_PREFIX"]).values()

    sealing = {name: value for name, value in settings.items() if not name.endswith(("SEALING", "REDIRECT", "POINT"))}
    sealing["WHARFAGE_STORAGE_ENDPOINT"] = settings["WHARFAGE_STORAGE_ENDPOINT"]
    server = start_server(tmp_path / "data", workers=1, watched=True, extra=sealing)
    line = Connection(server, server.password())
    assert line.ask("GET", f"/v2/team/app/blobs/{digest}").expect(200).body == content
    sealed = line.push_blob("team/app", b"sealed " * 1000)
    assert line.ask("GET", f"/v2/team/app/blobs/{sealed}").expect(200).body == b"sealed " * 1000
    assert not any(b"sealed " in stored for stored in seaweed.all_under(settings["WHARFAGE_STORAGE_PREFIX"]).values())
    line.close()
    checked = run(sys.executable, "-m", "proxy", "check", "--data", server.data, extra=sealing)
    assert "2 blobs ok" in checked.stdout
    assert " 0 damaged, 0 unreadable, 0 quarantined, 0 orphans" in checked.stdout
    rewrapped = run(sys.executable, "-m", "proxy", "rewrap", "--reseal", "--data", server.data, extra=sealing)
    assert "; 1 are stored without sealing and stay as they are" in rewrapped.stdout
    assert server.stop() == 0
