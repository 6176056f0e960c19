"""Images through the API alone, in the sequence of amazon-ecr-containerd-resolver and with its member order.

Push: BatchCheckLayerAvailability, InitiateLayerUpload, UploadLayerPart in parts of the returned size, its members
sorted as Go's SDK writes them (the bytes before the upload's id), CompleteLayerUpload, whose digest is checked and
whose LayerAlreadyExists is a success; at last BatchGetImage by digest and tag, and PutImage where that is not there.
Pull: BatchGetImage by accepted media types, of an index then its children by digest and exact type;
GetDownloadUrlForLayer and a plain GET for the config and each layer, or GETs of ranges side by side. Calls block.
"""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
from botocore.config import Config

from support.server import Server

DOCKER_IMAGE = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
ACCEPTED = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    DOCKER_IMAGE,
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
NOT_THERE = ("ImageNotFound", "ImageTagDoesNotMatchDigest")  # any other failure ends the resolver's push or pull

_session = boto3.session.Session()


def client(server: Server) -> Any:
    """boto3's `ecr` as the administrator; it asks once."""
    return client_at(server.url, *server.credentials())


def client_at(url: str, access_key_id: str, secret: str) -> Any:
    """The same for anybody anywhere."""
    return _session.client(
        "ecr",
        endpoint_url=url,
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
    digest = digest_of(manifest.encode())
    if find_image(ecr, repository, [DOCKER_IMAGE], imageDigest=digest, imageTag=tag) is None:
        put = {"imageDigest": digest, "imageManifest": manifest, "imageManifestMediaType": DOCKER_IMAGE}
        image = ecr.put_image(**put, imageTag=tag, repositoryName=repository)["image"]
        assert image["imageId"] == {"imageDigest": digest, "imageTag": tag}
    return digest


def find_image(ecr: Any, repository: str, accepted: Sequence[str], **image_id: str) -> Mapping[str, Any] | None:
    """One image, None where it is not there."""
    asked = {"acceptedMediaTypes": list(accepted), "imageIds": [image_id], "repositoryName": repository}
    answer = ecr.batch_get_image(**asked)
    if answer["failures"]:
        assert answer["failures"][0]["failureCode"] in NOT_THERE, answer["failures"]
        return None
    [image] = answer["images"]
    found: Mapping[str, Any] = image
    return found


def pull_image(ecr: Any, repository: str, tag: str) -> tuple[bytes, list[bytes]]:
    """Config and layers, each of which hashes to its digest."""
    image = find_image(ecr, repository, ACCEPTED, imageTag=tag)
    assert image is not None
    return _pull(ecr, repository, image)


def pull_index(ecr: Any, repository: str, tag: str) -> list[tuple[bytes, list[bytes]]]:
    """`pull_image` of each child."""
    index = find_image(ecr, repository, ACCEPTED, imageTag=tag)
    assert index is not None
    assert index["imageManifestMediaType"] == ACCEPTED[0]
    pulled = []
    for child in json.loads(index["imageManifest"])["manifests"]:
        image = find_image(ecr, repository, [child["mediaType"]], imageDigest=child["digest"])
        assert image is not None
        assert image["imageId"] == {"imageDigest": child["digest"]}
        assert (image["imageManifestMediaType"], len(image["imageManifest"])) == (child["mediaType"], child["size"])
        pulled.append(_pull(ecr, repository, image))
    return pulled


def _pull(ecr: Any, repository: str, image: Mapping[str, Any]) -> tuple[bytes, list[bytes]]:
    assert digest_of(image["imageManifest"].encode()) == image["imageId"]["imageDigest"]
    manifest = json.loads(image["imageManifest"])
    config, *layers = (
        fetch_layer(ecr, repository, each["digest"]) for each in (manifest["config"], *manifest["layers"])
    )
    return config, layers


def fetch_layer(ecr: Any, repository: str, digest: str) -> bytes:
    said = ecr.get_download_url_for_layer(layerDigest=digest, repositoryName=repository)
    assert said["layerDigest"] == digest
    status, content = get(said["downloadUrl"], Accept=f"{DOCKER_LAYER}, *")
    assert (status, digest_of(content)) == (200, digest)
    return content


def fetch_side_by_side(ecr: Any, repository: str, digest: str, size: int, piece: int) -> bytes:
    """A layer of that size by ranges of `piece` bytes, four at a time from one link."""
    url = ecr.get_download_url_for_layer(layerDigest=digest, repositoryName=repository)["downloadUrl"]
    ranges = [f"bytes={first}-{min(first + piece, size) - 1}" for first in range(0, size, piece)]
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda wanted: get(url, Range=wanted), ranges))
    assert {status for status, _ in parts} == {206}
    return b"".join(content for _, content in parts)


def get(url: str, **headers: str) -> tuple[int, bytes]:
    """What a GET is answered: status and body."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:  # noqa: S310 - our own
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read()
