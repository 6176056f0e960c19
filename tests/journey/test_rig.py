"""`wharfage rig` as its users run it: against our server, and against CNCF distribution, which knows nothing of us."""

from __future__ import annotations

import base64
import http.client
import json
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from peers import distribution

from proxy.rig import content
from proxy.rig.plan import ImageShape
from proxy.rig.sizes import parse_sizes
from support.programs import ROOT, environment, run
from support.registry import Registry, digest_of
from support.rig_command import Place
from support.server import Server

MIB = 1 << 20
LARGE = 192 * MIB
GROWTH = 8 * MIB  # what a layer of LARGE may cost more than one of 1 MiB, of which a connection's buffers are most


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """CNCF distribution on its filesystem."""
    peer = distribution(tmp_path_factory.mktemp("far"))
    yield Place(peer.address, (), None)
    peer.daemon.stop()


@pytest.fixture
def ours(server: Server, password: str) -> Place:
    return Place(server.address, ("--username", "AWS", "--password-stdin"), password)


@pytest.fixture(params=["ours", pytest.param("far", marks=pytest.mark.needs("registry"))])
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def prefix() -> str:
    """What no other test's repositories begin with."""
    return f"rig/{uuid.uuid4().hex[:12]}"


async def test_what_it_pushes_is_what_its_seed_says_and_a_stranger_reads_it(
    place: Place, prefix: str, tmp_path: Path
) -> None:
    sizes = "uniform:10KiB-700KiB"
    shaped = ["--seed", "5", "--prefix", prefix, "--repositories", "2"]
    images = ["--layers", "4", "--size", sizes, "--count", "4"]
    told = place.report("push", *shaped, *images, "--shared", "0.5", into=tmp_path / "push.json")
    pushed = told["operations"]["push"]
    assert (pushed["count"], pushed["failed"], told["ended"], told["seed"]) == (4, 0, "done", 5)
    shape = ImageShape(seed=5, layers=4, sizes=parse_sizes(sizes), shared=2, repositories=2, prefix=prefix)
    async with Registry(f"http://{place.address}", place.password or "none") as stranger:
        for image in range(4):
            target = shape.target(image)
            manifest, blobs = await stranger.pull_image(target.repository, target.tag)
            layers = [shape.layer(image, number) for number in range(4)]
            assert [digest_of(blob) for blob in blobs[1:]] == [content.digest_of(one.key, one.size) for one in layers]
            assert pushed["bytes"] > len(manifest)
    for more in ((), ("--chunked", "--parallel", "1")):
        again = place.report("pull", *shaped, "--images", "4", "--verify", into=tmp_path / "pull.json")
        assert again["operations"]["pull"]["count"] == 4
        assert again["requests"]["get-blob"]["count"] == 4 * 5
        assert again["operations"]["pull"]["bytes"] > 4 * 10 * 1024 * 4
        place.rig("push", *shaped, *images, *more)


def test_ranges_come_at_the_rate_that_is_asked_for(place: Place, prefix: str, tmp_path: Path) -> None:
    named = ["--prefix", prefix]
    place.rig("push", *named, "--layers", "2", "--size", "300KiB", "--count", "2")
    told = place.report(
        *("pull", *named, "--images", "2", "--ranges", "4KiB", "--rate", "50", "--spacing", "steady", "--count", "60"),
        into=tmp_path / "ranges.json",
    )
    ranges = told["operations"]["range"]
    assert (ranges["count"], ranges["failed"], ranges["not_started"]) == (60, 0, 0)
    assert told["requests"]["get-range"]["count"] == 120
    assert 120 * 4096 < ranges["bytes"] < 120 * 4096 + 60 * 2048  # and the manifests
    assert told["seconds"] >= 60 / 50


def test_a_mix_does_all_that_it_weighs(place: Place, prefix: str, tmp_path: Path) -> None:
    words = ["mix", "--prefix", prefix, "--layers", "2", "--size", "64KiB", "--images", "3", "--count", "120"]
    told = place.report(*words, into=tmp_path / "mix.json")
    done = {kind: seen["count"] for kind, seen in told["operations"].items()}
    assert set(done) == {"push", "pull", "range", "tag", "head", "list"}
    assert sum(done.values()) == 120
    assert not any(seen["failed"] for seen in told["operations"].values())
    assert told["operations"]["tag"]["bytes"] > 0
    again = place.report(*words, into=tmp_path / "again.json")
    assert {kind: seen["count"] for kind, seen in again["operations"].items()} == done


def test_a_mix_reads_images_of_its_own_shape_whatever_was_there(place: Place, prefix: str, tmp_path: Path) -> None:
    place.rig("push", "--prefix", prefix, "--layers", "1", "--size", "1KiB", "--count", "2")
    words = ["mix", "--prefix", prefix, "--layers", "3", "--size", "2KiB", "--images", "2", "--weights", "pull=1"]
    told = place.report(*words, "--count", "10", into=tmp_path / "mix.json")
    assert told["requests"]["get-blob"]["count"] == 10 * 4
    assert told["operations"]["pull"]["bytes"] > 10 * 3 * 2048


def test_named_tags_and_whole_repositories_are_pulled_whoever_pushed_them(
    place: Place, prefix: str, tmp_path: Path
) -> None:
    place.rig("push", "--prefix", prefix, "--layers", "1", "--size", "1KiB", "--count", "3")
    named = ["--repository", f"{prefix}/s0-r0"]
    told = place.report("pull", *named, "--tags", "i2,i0", "--count", "6", into=tmp_path / "named.json")
    assert told["operations"]["pull"]["count"] == 6
    told = place.report("pull", *named, into=tmp_path / "all.json")
    assert told["operations"]["pull"]["count"] == 3
    failed = place.rig("pull", "--repository", f"{prefix}/none", ok=False)
    assert failed.returncode == 1
    assert failed.stderr == (
        f"wharfage: the tags of {prefix}/none cannot be listed: 404 NAME_UNKNOWN; name some with --tags\n"
    )


def test_a_repository_that_is_refused_is_counted_by_its_error(ours: Place, server: Server, prefix: str) -> None:
    """One of two denies: half of the images fail, with status 1, and the other half does not."""
    access, secret = server.credentials()
    names = {"aws_access_key_id": access, "aws_secret_access_key": secret, "region_name": "us-east-1"}
    ecr = boto3.client("ecr", endpoint_url=server.url, **names)
    ecr.create_repository(repositoryName=f"{prefix}/s0-r1")
    deny = {"Sid": "no", "Effect": "Deny", "Principal": "*", "Action": "ecr:InitiateLayerUpload"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [deny]})
    ecr.set_repository_policy(repositoryName=f"{prefix}/s0-r1", policyText=policy)
    words = ["push", "--prefix", prefix, "--repositories", "2", "--layers", "1", "--size", "1KiB", "--count", "6"]
    done = ours.rig(*words, ok=False)
    assert done.returncode == 1
    assert "push failed: 403 DENIED × 3\n" in done.stdout
    assert done.stdout.splitlines()[3].split()[:3] == ["push", "3", "3"]


def test_no_password_is_in_what_it_writes(ours: Place, prefix: str, tmp_path: Path) -> None:
    words = ["push", "--prefix", prefix, "--layers", "1", "--size", "1KiB", "--count", "1"]
    done = ours.rig(*words, "--json", tmp_path / "a.json")
    assert ours.password
    basic = base64.b64encode(f"AWS:{ours.password}".encode()).decode()
    for text in (done.stdout, done.stderr, (tmp_path / "a.json").read_text()):
        assert ours.password not in text
        assert basic not in text


def test_a_wrong_password_fails_with_status_1(ours: Place, prefix: str) -> None:
    done = Place(ours.address, ours.words, "wrong").rig("push", "--prefix", prefix, "--count", "1", ok=False)
    assert done.returncode == 1
    assert "push failed: 401 × 1 (--username and --password-stdin say who asks)\n" in done.stdout


def test_nobody_there_fails_with_status_1() -> None:
    done = Place("127.0.0.1:1", (), None).rig("mix", "--images", "2", ok=False)
    assert done.returncode == 1
    assert "prepare failed: connection-refused × 2\n" in done.stdout


def test_a_rig_that_may_open_too_few_files_says_so(ours: Place, prefix: str) -> None:
    words = ["push", "--prefix", prefix, "--layers", "1", "--size", "1KiB", "--concurrency", "60", "--count", "60"]
    limited = ["sh", "-c", 'ulimit -n 40; exec "$0" "$@"', *ours.command(*words)]
    done = run(*limited, stdin=ours.password, ok=False)
    assert done.returncode == 1
    assert "raise `ulimit -n`, or lower --concurrency" in done.stdout


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ended_by_hand_it_still_reports(ours: Place, prefix: str, tmp_path: Path, sent: signal.Signals) -> None:
    words = ["push", "--prefix", prefix, "--layers", "1", "--size", "1KiB", "--duration", "250"]
    process = _begun(ours, *words, "--json", str(tmp_path / "a.json"))
    _wait_for(ours, f"{prefix}/s0-r0", process)
    process.send_signal(sent)
    stdout, stderr = process.communicate(timeout=60)
    told = json.loads((tmp_path / "a.json").read_text())
    assert (process.returncode, stderr) == (0, "")
    assert told["ended"] == "interrupted"
    assert told["operations"]["push"]["count"] > 0
    assert "ended by hand" in stdout


def test_a_picture_is_drawn(ours: Place, prefix: str, tmp_path: Path) -> None:
    words = ["push", "--prefix", prefix, "--layers", "1", "--size", "1KiB", "--count", "3"]
    ours.rig(*words, "--picture", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_layer_costs_the_rig_no_memory_pushed_or_pulled(ours: Place, prefix: str) -> None:
    """The most that the process had resident, with one layer of LARGE bytes, over what it has with one of 1 MiB."""

    def most(size: int, name: str) -> tuple[int, int]:
        named = ["--prefix", f"{prefix}/{name}"]
        pushing = _peak(ours, "push", *named, "--layers", "1", "--size", str(size), "--count", "1")
        return pushing, _peak(ours, "pull", *named, "--images", "1", "--verify")

    small, large = most(MIB, "small"), most(LARGE, "large")
    assert large[0] - small[0] < GROWTH, f"a push: {small[0] / MIB:.0f} to {large[0] / MIB:.0f} MiB"
    assert large[1] - small[1] < GROWTH, f"a pull: {small[1] / MIB:.0f} to {large[1] / MIB:.0f} MiB"


# ---- as processes --------------------------------------------------------------------------------------------------
def _begun(place: Place, *words: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        place.command(*words, "--quiet"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=ROOT,
    )
    assert process.stdin is not None
    process.stdin.write(f"{place.password}\n")
    process.stdin.flush()
    return process


def _peak(place: Place, *words: str) -> int:
    """Bytes: the high-water mark of the resident set, which the kernel keeps, looked at until the process has ended."""
    process = _begun(place, *words)
    most = 0
    while process.poll() is None:
        for line in _status(process.pid):
            if line.startswith("VmHWM:"):
                most = max(most, int(line.split()[1]) * 1024)
        time.sleep(0.005)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stdout + stderr
    assert most
    return most


def _status(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _wait_for(place: Place, repository: str, process: subprocess.Popen[str]) -> None:
    """Until an image is there."""
    basic = base64.b64encode(f"AWS:{place.password}".encode()).decode()
    deadline = time.monotonic() + 60
    status = 0
    while status != 200:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, status
        line = http.client.HTTPConnection(place.address, timeout=30)
        line.request("HEAD", f"/v2/{repository}/manifests/i0", headers={"Authorization": f"Basic {basic}"})
        status = line.getresponse().status
        line.close()
        time.sleep(0.02)
