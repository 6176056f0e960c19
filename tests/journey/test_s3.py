"""A registry on S3: images by a real client, a push cut in two, requests counted, the check, an emptied bucket."""

from __future__ import annotations

import base64
import json
import random
import re
import sys
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from support.connections import Connection
from support.images import MIB, check_layout, write_layout
from support.programs import run
from support.registry import digest_of
from support.seaweed import Seaweed
from support.server import Server

OCTETS = {"Content-Type": "application/octet-stream"}


def requests_made(server: Server) -> dict[str, int]:
    """S3 requests by operation, over all workers."""
    with urllib.request.urlopen(f"{server.url}/metrics") as answer:  # noqa: S310 - http, to our own server
        text = answer.read().decode()
    found: dict[str, int] = {}
    for operation, number in re.findall(r'wharfage_s3_requests_total\{operation="(\w+)",outcome="\w+"\} (\d+)', text):
        found[operation] = found.get(operation, 0) + int(number)
    return found


@pytest.mark.clients
@pytest.mark.needs("crane", "weed")
def test_an_image_of_small_and_large_layers_comes_back_and_the_check_is_clean(
    s3_server: Server, s3_settings: dict[str, str], repository: str, tmp_path: Path
) -> None:
    """Layers below, at and above a part (8 MiB), by crane; then every frame of them by `wharfage check`."""
    image = write_layout(tmp_path / "image", 77, (MIB, 5 * MIB, 8 * MIB, 30 * MIB))
    basic = base64.b64encode(f"AWS:{s3_server.password()}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {s3_server.address: {"auth": basic}}}))
    extra = {"DOCKER_CONFIG": str(tmp_path)}
    reference = f"{s3_server.address}/{repository}:v1"
    run("crane", "push", image.path, reference, "--insecure", extra=extra)
    run("crane", "pull", "--format=oci", reference, tmp_path / "back", "--insecure", extra=extra)
    check_layout(tmp_path / "back", image)
    checked = run(sys.executable, "-m", "proxy", "check", "--data", s3_server.data, extra=s3_settings)
    assert " 0 damaged, 0 unreadable, 0 quarantined, 0 orphans" in checked.stdout


@pytest.mark.needs("weed")
def test_a_start_says_which_conditional_requests_the_store_honours(s3_server: Server) -> None:
    """Of a real SeaweedFS all three, recorded for later starts; the probe leaves no object."""
    assert "(conditional requests: put complete delete)" in s3_server.daemon.log.read_text()
    assert (s3_server.data / "store-conditions").read_text().splitlines()[1] == "put complete delete"


@pytest.mark.needs("weed")
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (3 * MIB, {"put_object": 1}),
        (20 * MIB, {"create_multipart_upload": 1, "upload_part": 3, "complete_multipart_upload": 1}),
    ],
    ids=["below a part", "three parts"],
)
def test_a_layer_that_docker_pushes_costs_what_its_bytes_cost(
    s3_server: Server, repository: str, size: int, expected: dict[str, int]
) -> None:
    """POST, PATCH with all of it, PUT: after the PATCH the store is asked nothing."""
    line = Connection(s3_server, s3_server.password())
    content = random.Random(repository).randbytes(size)
    line.push_blob(repository, b"warm")
    before = requests_made(s3_server)
    place = line.begin(repository)
    place = line.ask("PATCH", place, content, OCTETS).expect(202).headers["Location"]
    line.ask("PUT", closing(place, content)).expect(201)
    after = requests_made(s3_server)
    made = {name: number - before.get(name, 0) for name, number in after.items() if number != before.get(name, 0)}
    named = made.pop("get_object", 0)  # a worker that has not seen the store's name for 5 s looks at it
    assert (made, named) in [(expected, number) for number in (0, 1)]
    assert line.ask("GET", f"/v2/{repository}/blobs/{digest_of(content)}").expect(200).body == content
    line.close()


@pytest.mark.needs("weed")
def test_a_layer_that_looked_whole_goes_on_all_the_same(s3_server: Server, repository: str) -> None:
    """PATCHes that say nothing of their place, of more than a part, each to another worker perhaps; the last bytes come
    with the PUT."""
    line = Connection(s3_server, s3_server.password())
    content = random.Random(repository).randbytes(33 * MIB + 17)
    place = line.begin(repository)
    for at in range(0, 30 * MIB, 10 * MIB):
        other = Connection(s3_server, s3_server.password())
        answer = other.ask("PATCH", place, content[at : at + 10 * MIB], OCTETS).expect(202)
        assert answer.headers["Range"] == f"0-{at + 10 * MIB - 1}"
        place = answer.headers["Location"]
        other.close()
    line.ask("PUT", closing(place, content), content[30 * MIB :], OCTETS).expect(201)
    assert line.ask("GET", f"/v2/{repository}/blobs/{digest_of(content)}").expect(200).body == content
    line.close()


def closing(place: str, content: bytes) -> str:
    return f"{place}{'&' if '?' in place else '?'}digest={digest_of(content)}"


@pytest.mark.needs("weed")
def test_an_emptied_bucket_hides_nothing_and_is_refused_at_the_next_start(
    start_server: Callable[..., Server], seaweed: Seaweed, tmp_path: Path
) -> None:
    """Reads answer 503 and `check --repair` gives up meanwhile; with the objects back all is served as before."""
    settings = seaweed.settings(f"{uuid.uuid4().hex[:8]}/")
    own = start_server(tmp_path / "data", workers=1, watched=True, extra=settings)
    line = Connection(own, own.password())
    content = random.Random(7).randbytes(MIB)
    digest = line.push_blob("team/app", content)

    def check(*more: str, ok: bool) -> str:
        done = run(sys.executable, "-m", "proxy", "check", "--data", own.data, *more, extra=settings, ok=ok)
        return done.stdout + done.stderr

    taken = seaweed.take_all(settings["WHARFAGE_STORAGE_PREFIX"])
    assert len(taken) == 2, "the blob and the store's name"
    assert line.ask("GET", f"/v2/team/app/blobs/{digest}").expect(503).code() == "UNAVAILABLE"
    assert "is not the one that this registry's rows are about" in check("--repair", ok=False)
    assert own.stop() == 0
    line.close()
    with pytest.raises(AssertionError, match="ended with 1") as refused:
        start_server(own.data, workers=1, extra=settings)
    assert "holds no wharfage-store" in str(refused.value)
    assert "Traceback" not in str(refused.value)

    seaweed.put_back(taken)
    again = start_server(own.data, workers=1, watched=True, extra=settings)
    line = Connection(again, again.password())
    assert line.ask("GET", f"/v2/team/app/blobs/{digest}").expect(200).body == content
    line.close()
    assert "1 blobs ok" in check(ok=True)
    assert again.stop() == 0
