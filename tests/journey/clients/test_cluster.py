"""Real clients on three nodes behind nginx, on S3 and PostgreSQL: what is pushed through nginx is on every node."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from support import balancer
from support.cluster import ACCESS_KEY_ID, SECRET_ACCESS_KEY, Cluster
from support.engines import Docker
from support.images import MIB, check_layout, tree, write_layout
from support.programs import run
from support.registry import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, digest_of
from support.resolver import client_at, fetch_layer, push_layer

pytestmark = [pytest.mark.clients, pytest.mark.needs("weed", "nginx", "postgres")]

LAYERS = (30 * MIB, 9 * MIB, 70_000, 0)  # above a part of S3 (8 MiB), of it and a tail, below, empty


@pytest.fixture(scope="module")
def cluster_password(cluster: Cluster) -> str:
    return cluster.password()


def everywhere(cluster: Cluster) -> list[str]:
    """The addresses at which one registry answers: nginx, and each node by itself."""
    return [cluster.address, *(node.address for node in cluster.nodes)]


def who_took_the_upload(cluster: Cluster, repository: str) -> set[str]:
    found = [nodes for path, nodes in cluster.nodes_of_uploads().items() if f"/{repository}/" in path]
    assert found, f"nginx saw no upload to {repository}"
    return set().union(*found)


@pytest.mark.needs("docker", "dockerd")
def test_what_docker_pushes_through_nginx_it_pulls_from_every_node(
    cluster: Cluster, cluster_password: str, docker: Docker, repository: str
) -> None:
    for address in everywhere(cluster):
        docker("login", "--username", "AWS", "--password-stdin", address, stdin=cluster_password)
    reference = f"{cluster.address}/{repository}:v1"
    docker("import", "-", reference, stdin=tree(90, 20 * MIB))
    pushed = docker.image_id(reference)
    docker("push", reference)
    docker("rmi", reference)
    for address in everywhere(cluster):
        docker("pull", f"{address}/{repository}:v1")
        assert docker.image_id(f"{address}/{repository}:v1") == pushed
        docker("rmi", f"{address}/{repository}:v1")
    assert len(who_took_the_upload(cluster, repository)) > 1


@pytest.mark.needs("skopeo")
def test_what_skopeo_copies_through_nginx_it_copies_from_every_node(
    cluster: Cluster, cluster_password: str, repository: str, tmp_path: Path
) -> None:
    image = write_layout(tmp_path / "image", 91, LAYERS)
    copy = ("skopeo", "--insecure-policy", "copy")
    there = ("--dest-tls-verify=false", "--dest-creds", f"AWS:{cluster_password}")
    run(*copy, *there, f"oci:{image.path}:v1", f"docker://{cluster.address}/{repository}:v1")
    for number, address in enumerate(everywhere(cluster)):
        back = tmp_path / f"back{number}"
        here = ("--src-tls-verify=false", "--src-creds", f"AWS:{cluster_password}")
        run(*copy, *here, f"docker://{address}/{repository}:v1", f"oci:{back}:v1")
        check_layout(back, image)
    assert len(who_took_the_upload(cluster, repository)) > 1


@pytest.mark.needs("crane")
def test_crane_finds_on_every_node_at_once_what_it_pushed_tagged_and_deleted_through_nginx(
    cluster: Cluster, cluster_password: str, repository: str, tmp_path: Path
) -> None:
    basic = base64.b64encode(f"AWS:{cluster_password}".encode()).decode()
    logins = {address: {"auth": basic} for address in everywhere(cluster)}
    (tmp_path / "config.json").write_text(json.dumps({"auths": logins}))

    def crane(*words: str | Path, ok: bool = True) -> str:
        done = run("crane", *words, "--insecure", extra={"DOCKER_CONFIG": str(tmp_path)}, ok=ok)
        return done.stdout if ok else done.stderr

    image = write_layout(tmp_path / "image", 92, LAYERS)
    base = f"{cluster.address}/{repository}"
    crane("push", image.path, f"{base}:v1")
    for number, address in enumerate(everywhere(cluster)):
        crane("pull", "--format=oci", f"{address}/{repository}:v1", tmp_path / f"back{number}")
        check_layout(tmp_path / f"back{number}", image)

    crane("tag", f"{base}:v1", "v2")
    for address in everywhere(cluster):
        assert crane("ls", f"{address}/{repository}").split() == ["v1", "v2"]
    crane("delete", f"{base}@{image.digest}")
    for address in everywhere(cluster):
        assert "MANIFEST_UNKNOWN" in crane("manifest", f"{address}/{repository}:v2", ok=False)
    assert len(who_took_the_upload(cluster, repository)) > 1


def test_nginx_never_gave_one_request_to_two_nodes_while_all_were_well(cluster: Cluster, cluster_password: str) -> None:
    """Asking for the password was one such request; if tests before this one ran, theirs are here too."""
    assert {len(one.nodes) for one in balancer.passed(cluster.folder)} == {1}


@pytest.mark.needs("crane")
def test_an_image_whose_parts_came_to_three_nodes_by_the_api_is_pulled_from_every_node(
    cluster: Cluster, cluster_password: str, repository: str, tmp_path: Path
) -> None:
    """Each call is another node's: the upload is begun, fed and completed by turns, and the image put by the third."""
    nodes = [client_at(node.url, ACCESS_KEY_ID, SECRET_ACCESS_KEY) for node in cluster.nodes]
    named = {"repositoryName": repository}
    nodes[0].create_repository(**named)
    content = bytes(range(256)) * (12 * MIB // 256) + b"a tail"
    upload = {**named, "uploadId": nodes[0].initiate_layer_upload(**named)["uploadId"]}
    size = 5 * MIB
    for turn, first in enumerate(range(0, len(content), size)):
        part = content[first : first + size]
        about = {**upload, "partFirstByte": first, "partLastByte": first + len(part) - 1}
        taken = nodes[(turn + 1) % len(nodes)].upload_layer_part(**about, layerPartBlob=part)
        assert taken["lastByteReceived"] == first + len(part) - 1
    done = nodes[0].complete_layer_upload(**upload, layerDigests=[digest_of(content)])
    assert done["layerDigest"] == digest_of(content)

    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}}).encode()
    described = [
        {"mediaType": kind, "size": len(each), "digest": push_layer(nodes[1], repository, each)}
        for kind, each in ((OCI_CONFIG, config), (OCI_LAYER, content))
    ]
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described[0], "layers": described[1:]}
    nodes[2].put_image(**named, imageManifest=json.dumps(manifest), imageTag="v1")
    for node in nodes:
        [image] = node.batch_get_image(**named, imageIds=[{"imageTag": "v1"}])["images"]
        assert json.loads(image["imageManifest"]) == manifest
        assert fetch_layer(node, repository, digest_of(content)) == content  # by a link of this node, from this node
    folder = tmp_path / "login"
    folder.mkdir()
    basic = base64.b64encode(f"AWS:{cluster_password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {cluster.address: {"auth": basic}}}))
    pulled = tmp_path / "pulled"
    reference = f"{cluster.address}/{repository}:v1"
    run("crane", "pull", "--format=oci", "--insecure", reference, pulled, extra={"DOCKER_CONFIG": str(folder)})
    layer = pulled / "blobs" / "sha256" / digest_of(content).removeprefix("sha256:")
    assert layer.read_bytes() == content
