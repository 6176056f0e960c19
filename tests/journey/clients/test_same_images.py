"""The same images in every client: what one of docker, skopeo, crane and the API pushes, all pull, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.engines import Docker
from support.images import Layout
from support.programs import run
from support.registry import digest_of
from support.resolver import ACCEPTED, client, fetch_layer, push_layer
from support.server import Server

pytestmark = [
    pytest.mark.clients,
    pytest.mark.needs("docker", "dockerd", "crane", "skopeo"),
]


@dataclass(frozen=True, slots=True)
class Clients:
    """All four, with one login, at the server at `address`. Pushers are given the image, and docker has it already."""

    address: str
    login: Path
    docker: Docker
    ecr: Any

    def crane(self, *words: str | Path) -> str:
        return run("crane", *words, "--insecure", extra={"DOCKER_CONFIG": str(self.login)}).stdout

    def skopeo(self, *words: str | Path) -> None:
        run("skopeo", "--insecure-policy", *words, extra={"REGISTRY_AUTH_FILE": str(self.login / "config.json")})

    def push_by_crane(self, image: Layout, repository: str) -> None:
        self.crane("push", image.path, f"{self.address}/{repository}:v1")

    def push_by_skopeo(self, image: Layout, repository: str) -> None:
        where = f"docker://{self.address}/{repository}:v1"
        self.skopeo("copy", "--all", "--preserve-digests", "--dest-tls-verify=false", f"oci:{image.path}:v1", where)

    def push_by_docker(self, image: Layout, repository: str) -> None:
        self.docker("tag", image.image_ids[0], f"{self.address}/{repository}:v1")
        self.docker("push", f"{self.address}/{repository}:v1")
        self.docker("rmi", f"{self.address}/{repository}:v1")

    def push_by_api(self, image: Layout, repository: str) -> None:
        self.ecr.create_repository(repositoryName=repository)
        blobs = {digest: (image.path / "blobs/sha256" / digest[7:]).read_bytes() for digest in image.blobs}
        manifest = blobs.pop(image.digest)
        for content in blobs.values():
            push_layer(self.ecr, repository, content)
        self.ecr.put_image(repositoryName=repository, imageManifest=manifest.decode(), imageTag="v1")

    def pulled_by_api(self, repository: str) -> dict[str, bytes]:
        """The manifest, the config and the layers, each hashed already but the manifest."""
        asked = {"imageIds": [{"imageTag": "v1"}], "acceptedMediaTypes": list(ACCEPTED)}
        [image] = self.ecr.batch_get_image(repositoryName=repository, **asked)["images"]
        text = image["imageManifest"]
        manifest = json.loads(text)
        digests = [each["digest"] for each in (manifest["config"], *manifest["layers"])]
        blobs = {digest: fetch_layer(self.ecr, repository, digest) for digest in digests}
        return {image["imageId"]["imageDigest"]: text.encode(), **blobs}

    def pulled_by_crane(self, repository: str, folder: Path) -> dict[str, bytes]:
        self.crane("pull", "--format=oci", f"{self.address}/{repository}:v1", folder)
        return contents(folder)

    def pulled_by_skopeo(self, repository: str, folder: Path) -> dict[str, bytes]:
        where = f"docker://{self.address}/{repository}:v1"
        self.skopeo("copy", "--preserve-digests", "--src-tls-verify=false", where, f"dir:{folder}")
        return {digest_of(each.read_bytes()): each.read_bytes() for each in folder.iterdir() if each.name != "version"}

    def pulled_by_docker(self, repository: str) -> str:
        """Its image id."""
        reference = f"{self.address}/{repository}:v1"
        self.docker("pull", reference)
        found = self.docker.image_id(reference)
        self.docker("rmi", reference)
        return found


def contents(layout: Path) -> dict[str, bytes]:
    return {f"sha256:{each.name}": each.read_bytes() for each in (layout / "blobs" / "sha256").iterdir()}


@pytest.fixture
def clients(docker_socket: Path, docker_login: Path, server: Server) -> Clients:
    return Clients(server.address, docker_login, Docker(docker_socket, docker_login), client(server))


@pytest.mark.parametrize("pusher", ["crane", "skopeo", "docker", "api"])
def test_what_one_client_pushes_all_pull_bit_for_bit(
    clients: Clients, repository: str, small_image: Layout, tmp_path: Path, pusher: str
) -> None:
    """docker pushes layers that it has packed itself: other bytes, of the same image id."""
    source = f"{repository}/source"
    clients.push_by_crane(small_image, source)
    clients.docker("pull", f"{clients.address}/{source}:v1")
    push: Callable[[Layout, str], None] = getattr(clients, f"push_by_{pusher}")
    push(small_image, repository)
    clients.docker("rmi", f"{clients.address}/{source}:v1")

    pulled = clients.pulled_by_api(repository)
    assert {digest_of(content): content for content in pulled.values()} == pulled
    if pusher != "docker":
        assert pulled.keys() == set(small_image.blobs)
    assert clients.pulled_by_crane(repository, tmp_path / "crane") == pulled
    assert clients.pulled_by_skopeo(repository, tmp_path / "skopeo") == pulled
    assert clients.pulled_by_docker(repository) == small_image.image_ids[0]


def test_an_index_that_skopeo_pushed_is_the_same_to_crane_and_to_the_api(
    clients: Clients, repository: str, multi_arch: Layout, tmp_path: Path
) -> None:
    """Every manifest of it, as an image of its own; docker takes the one of its platform."""
    clients.push_by_skopeo(multi_arch, repository)
    wanted = contents(multi_arch.path)
    clients.crane("pull", "--format=oci", f"{clients.address}/{repository}:v1", tmp_path / "crane")
    assert contents(tmp_path / "crane") == wanted
    pages = clients.ecr.get_paginator("list_images").paginate(repositoryName=repository)
    ids = [{"imageDigest": each["imageDigest"]} for page in pages for each in page["imageIds"]]
    images = clients.ecr.batch_get_image(repositoryName=repository, imageIds=ids)["images"]
    texts = {each["imageId"]["imageDigest"]: each["imageManifest"].encode() for each in images}
    assert len(texts) == 4
    assert texts == {digest: wanted[digest] for digest in texts}
    for digest in wanted.keys() - texts.keys():
        assert fetch_layer(clients.ecr, repository, digest) == wanted[digest]
    assert clients.pulled_by_docker(repository) in multi_arch.image_ids
