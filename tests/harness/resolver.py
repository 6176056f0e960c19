"""Images through the API alone, in the sequence of amazon-ecr-containerd-resolver and with its member order.

Push: BatchCheckLayerAvailability, InitiateLayerUpload, UploadLayerPart in parts of the returned size, its members
sorted as Go's SDK writes them (the bytes before the upload's id), CompleteLayerUpload, whose digest is checked and
whose LayerAlreadyExists is a success; at last PutImage. Pull: BatchGetImage by accepted media types, then
GetDownloadUrlForLayer and a plain GET for the config and each layer. Calls block.
"""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

import boto3
from botocore.config import Config

from harness.server import Server

DOCKER_IMAGE = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
ACCEPTED = (DOCKER_IMAGE, "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json")

_session = boto3.session.Session()


def client(server: Server) -> Any:
    """boto3's `ecr` as the administrator; it asks once."""
    access_key_id, secret = server.credentials()
    return _session.client(
        "ecr",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}),
    )


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def push_layer(ecr: Any, repository: str, content: bytes, *, checks: bool = True) -> str:
    """The layer's digest. Unless it `checks`, what is there is sent all the same."""
    digest = digest_of(content)
    [layer] = ecr.batch_check_layer_availability(repositoryName=repository, layerDigests=[digest])["layers"]
    if checks and layer["layerAvailability"] == "AVAILABLE":
        assert layer["layerSize"] == len(content)
        return digest
    begun = ecr.initiate_layer_upload(repositoryName=repository)
    upload_id, size = begun["uploadId"], begun["partSize"]
    for first in range(0, len(content), size):
        part = content[first : first + size]
        answer = ecr.upload_layer_part(
            layerPartBlob=part,
            partFirstByte=first,
            partLastByte=first + len(part) - 1,
            repositoryName=repository,
            uploadId=upload_id,
        )
        assert answer["lastByteReceived"] == first + len(part) - 1
    try:
        done = ecr.complete_layer_upload(layerDigests=[digest], repositoryName=repository, uploadId=upload_id)
        assert done["layerDigest"] == digest
    except ecr.exceptions.LayerAlreadyExistsException:
        pass
    return digest


def push_image(ecr: Any, repository: str, tag: str, config: bytes, layers: Sequence[bytes]) -> str:
    """The image's digest."""
    described = [
        {"mediaType": kind, "size": len(content), "digest": push_layer(ecr, repository, content)}
        for kind, content in [(DOCKER_CONFIG, config), *((DOCKER_LAYER, layer) for layer in layers)]
    ]
    manifest = json.dumps(
        {"schemaVersion": 2, "mediaType": DOCKER_IMAGE, "config": described[0], "layers": described[1:]}
    )
    image = ecr.put_image(imageManifest=manifest, imageTag=tag, repositoryName=repository)["image"]
    digest: str = image["imageId"]["imageDigest"]
    assert digest == digest_of(manifest.encode())
    return digest


def pull_image(ecr: Any, repository: str, tag: str) -> tuple[bytes, list[bytes]]:
    """Config and layers, each of which hashes to its digest."""
    asked = {"repositoryName": repository, "imageIds": [{"imageTag": tag}], "acceptedMediaTypes": list(ACCEPTED)}
    [image] = ecr.batch_get_image(**asked)["images"]
    manifest = json.loads(image["imageManifest"])
    config, *layers = (
        fetch_layer(ecr, repository, each["digest"]) for each in (manifest["config"], *manifest["layers"])
    )
    return config, layers


def fetch_layer(ecr: Any, repository: str, digest: str) -> bytes:
    said = ecr.get_download_url_for_layer(layerDigest=digest, repositoryName=repository)
    assert said["layerDigest"] == digest
    status, content = get(said["downloadUrl"])
    assert (status, digest_of(content)) == (200, digest)
    return content


def get(url: str, **headers: str) -> tuple[int, bytes]:
    """What a GET is answered: status and body."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:  # noqa: S310 - our own
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read()
