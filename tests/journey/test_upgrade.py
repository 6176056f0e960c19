"""An upgrade from an older release over its data: what was acknowledged before is there after, and goes on.

The older release is a commit of this repository, taken out of its history and run with this environment's libraries,
without its compiled module. `OLD` moves on when an upgrade from it is no longer promised.
"""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from botocore.exceptions import ClientError

from support import postgresql
from support.metadata import postgresql_database
from support.programs import ROOT, Daemon, run
from support.registry import Registry, digest_of
from support.seaweed import Seaweed
from support.server import START_SECONDS, Server, free_port

OLD = "7963dc3"  # before the packages got their present places and names
PULL_ONLY = (
    '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["ecr:GetAuthorizationToken",'
    '"ecr:BatchGetImage","ecr:GetDownloadUrlForLayer"],"Resource":"*"}]}'
)
LAYERS = [b"a small layer", bytes(range(256)) * 4096, b"x" * 3_000_001]
HALF = b"first half, " * 100_000
REST = b"second half. " * 100_000


@pytest.fixture(scope="module")
def old_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of `OLD`."""
    if not run("git", "-C", ROOT, "cat-file", "-t", OLD).stdout.startswith("commit"):
        pytest.fail(f"the history holds no {OLD}: clone it whole")
    tree = tmp_path_factory.mktemp("old")
    archive = tree.with_suffix(".tar")
    run("git", "-C", ROOT, "archive", "--output", archive, OLD, "proxy", "_speedups")
    with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as packed:
        packed.extractall(tree, filter="data")
    return tree


@pytest.fixture(params=["sqlite-folder", pytest.param("postgresql-s3", marks=pytest.mark.needs(postgresql.PROGRAM))])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    if request.param == "sqlite-folder":
        yield {}
        return
    weed: Seaweed = request.getfixturevalue("seaweed")
    yield weed.settings(tmp_path.name) | {"WHARFAGE_METADATA_DATABASE": postgresql_database(tmp_path)}


def start(tree: Path, data: Path, settings: Mapping[str, str]) -> Server:
    """The server as that tree has it."""
    address = f"127.0.0.1:{free_port()}"
    serve: list[str | Path] = [
        sys.executable,
        "-m",
        "proxy",
        "serve",
        "--data",
        data,
        "--listen",
        address,
        "--workers",
        "1",
    ]
    command = ["sh", "-c", f'cd {tree} && exec "$@"', "sh", *serve]
    pure = {} if tree == ROOT else {"WHARFAGE_PURE": "1"}  # the compiled module here is not of that release
    daemon = Daemon.start(command, data.with_name(f"{tree.name}.log"), {**settings, **pure, "PYTHONPATH": str(tree)})
    server = Server(daemon, address, data)
    daemon.wait_until(server.is_ready, START_SECONDS)
    assert psutil.Process(daemon.process.pid).cwd() == str(tree)
    return server


def client(server: Server, service: str, keys: tuple[str, str]) -> Any:
    return boto3.client(
        service,
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id=keys[0],
        aws_secret_access_key=keys[1],
    )


async def layers_of_before_go_to_an_archive_and_come_back(
    data: Path, settings: Mapping[str, str], cold: Path, keys: tuple[str, str]
) -> None:
    """With `[archive]` for the first time."""
    settings = {**settings, "WHARFAGE_ARCHIVE_PATH": str(cold)}
    server = start(ROOT, data, settings)
    about: dict[str, Any] = {"repositoryName": "team/app"}
    try:
        ecr = client(server, "ecr", keys)
        for target, status, moved in (("ARCHIVE", "ARCHIVED", len(LAYERS) + 1), ("STANDARD", "ACTIVE", 0)):
            ecr.update_image_storage_class(**about, imageId={"imageTag": "v1"}, targetStorageClass=target)

            def there(status: str = status, moved: int = moved) -> bool:
                [image] = ecr.describe_images(**about, imageIds=[{"imageTag": "v1"}])["imageDetails"]
                return image["imageStatus"] == status and len(list(cold.glob("???/*"))) == moved

            server.daemon.wait_until(there, 60)
        async with Registry(server.url, server.password()) as registry:
            for layer in LAYERS:
                assert (await registry.blob("team/app", digest_of(layer))).expect(200).body == layer
        assert server.stop() == 0
        said = run(sys.executable, "-m", "proxy", "check", "--data", data, cwd=ROOT, extra=settings).stdout
        assert said.startswith("5 blobs ok"), said
    finally:
        server.daemon.kill()


async def test_data_of_the_release_before_is_served_whole_and_its_upload_goes_on(
    old_release: Path, settings: dict[str, str], tmp_path: Path
) -> None:
    """Images, an index of tags, a policy, a user's rights, a token and half an upload outlive the upgrade."""
    data = tmp_path / "data"
    server = start(old_release, data, settings)
    try:
        administrator = server.credentials()
        password = server.password()
        async with Registry(server.url, password) as before:
            manifest = await before.push_image("team/app", "v1", LAYERS)
            (await before.put_manifest("team/app", "latest", manifest)).expect(201)
            location = await before.begin("team/app")
            location = (await before.chunk(location, HALF)).expect(202).headers["Location"]
        iam = client(server, "iam", administrator)
        iam.create_user(UserName="puller")
        iam.put_user_policy(UserName="puller", PolicyName="pull", PolicyDocument=PULL_ONLY)
        made = iam.create_access_key(UserName="puller")["AccessKey"]
        puller = (made["AccessKeyId"], made["SecretAccessKey"])
        client(server, "ecr", administrator).put_image_tag_mutability(
            repositoryName="team/app", imageTagMutability="IMMUTABLE"
        )
        assert server.stop() == 0
        server = start(ROOT, data, settings)
        upload = location.partition("/v2/")[2]
        async with Registry(server.url, password) as after:  # the token of before
            for reference in ("v1", "latest", digest_of(manifest)):
                assert (await after.manifest("team/app", reference)).expect(200).body == manifest
            for layer in LAYERS:
                assert (await after.blob("team/app", digest_of(layer))).expect(200).body == layer
            done = await after.close_upload(f"/v2/{upload}", digest_of(HALF + REST), REST)
            done.expect(201)
            assert (await after.blob("team/app", digest_of(HALF + REST))).expect(200).body == HALF + REST
            assert (await after.put_manifest("team/app", "v1", manifest + b" ")).status == 400, "v1 is immutable"
        ecr = client(server, "ecr", puller)
        [image] = ecr.batch_get_image(repositoryName="team/app", imageIds=[{"imageTag": "v1"}])["images"]
        assert image["imageManifest"].encode() == manifest
        with pytest.raises(ClientError, match="AccessDenied"):
            ecr.delete_repository(repositoryName="team/app", force=True)
        assert server.stop() == 0
        said = run(sys.executable, "-m", "proxy", "check", "--data", data, cwd=ROOT, extra=settings).stdout
        assert said.startswith("5 blobs ok"), said
        await layers_of_before_go_to_an_archive_and_come_back(data, settings, tmp_path / "cold", administrator)
    finally:
        server.daemon.kill()
