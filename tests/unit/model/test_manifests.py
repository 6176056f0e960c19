"""Reading manifests: what is taken, what is refused and in which words."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from proxy.model.errors import Code, Failure
from proxy.model.manifests import (
    DOCKER_IMAGE,
    DOCKER_LIST,
    MANIFEST_MAX,
    OCI_ARTIFACT,
    OCI_IMAGE,
    OCI_INDEX,
    read_manifest,
)
from proxy.model.records import ImageKind

CONFIG = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "sha256:" + "a" * 64, "size": 7}
LAYER = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": "sha256:" + "b" * 64, "size": 100}
IMAGE = {"schemaVersion": 2, "mediaType": OCI_IMAGE, "config": CONFIG, "layers": [LAYER]}
CHILD = {"mediaType": OCI_IMAGE, "digest": "sha512:" + "c" * 128, "size": 9}


def dumps(document: object) -> bytes:
    return json.dumps(document).encode()


def without(document: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in keys}


def refusal(content: bytes, media_type: str | None = OCI_IMAGE) -> Failure:
    with pytest.raises(Failure) as caught:
        read_manifest(content, media_type)
    return caught.value


def test_an_image_names_its_config_and_layers_and_its_size_is_the_layers() -> None:
    facts = read_manifest(dumps(IMAGE), OCI_IMAGE)
    assert facts.kind is ImageKind.IMAGE
    assert facts.blobs == ((CONFIG["digest"], 7), (LAYER["digest"], 100))
    assert facts.image_size == 100
    assert facts.config_media_type == CONFIG["mediaType"]


def test_a_docker_image_and_list_are_read_like_their_oci_twins() -> None:
    image = read_manifest(dumps({**IMAGE, "mediaType": DOCKER_IMAGE}), DOCKER_IMAGE)
    listed = read_manifest(dumps({"schemaVersion": 2, "manifests": [CHILD]}), DOCKER_LIST)
    assert (image.kind, image.media_type) == (ImageKind.IMAGE, DOCKER_IMAGE)
    assert (listed.kind, listed.children) == (ImageKind.INDEX, (CHILD["digest"],))


def test_a_content_type_with_parameters_is_the_media_type_before_them() -> None:
    assert read_manifest(dumps(IMAGE), OCI_IMAGE + "; charset=utf-8").media_type == OCI_IMAGE


@pytest.mark.parametrize(
    ("document", "wanted"),
    [
        (IMAGE, OCI_IMAGE),
        (without(IMAGE, "mediaType"), OCI_IMAGE),
        ({"schemaVersion": 2, "manifests": []}, OCI_INDEX),
    ],
)
def test_without_a_content_type_the_field_or_the_shape_tells_the_kind(document: dict[str, Any], wanted: str) -> None:
    assert read_manifest(dumps(document), None).media_type == wanted


def test_an_empty_index_and_null_lists_are_fine() -> None:
    assert read_manifest(dumps({"schemaVersion": 2, "manifests": None}), OCI_INDEX).children == ()
    assert read_manifest(dumps({**IMAGE, "layers": None}), OCI_IMAGE).image_size == 0


def test_foreign_layers_are_not_asked_for() -> None:
    foreign = {**LAYER, "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"}
    linked = {**LAYER, "digest": "sha256:" + "d" * 64, "urls": ["https://example.com/layer"]}
    facts = read_manifest(dumps({**IMAGE, "layers": [foreign, linked]}), OCI_IMAGE)
    assert facts.blobs == ((CONFIG["digest"], 7),)


def test_an_artifact_says_its_type_subject_and_annotations() -> None:
    document = {
        **IMAGE,
        "artifactType": "application/vnd.example.sbom",
        "subject": CHILD,
        "annotations": {"org.example": "yes"},
    }
    facts = read_manifest(dumps(document), OCI_IMAGE)
    assert facts.kind is ImageKind.ARTIFACT
    assert (facts.artifact_type, facts.subject) == ("application/vnd.example.sbom", CHILD["digest"])
    assert facts.annotations == {"org.example": "yes"}


def test_an_artifact_manifest_names_its_blobs() -> None:
    facts = read_manifest(dumps({"mediaType": OCI_ARTIFACT, "artifactType": "a/b", "blobs": [LAYER]}), OCI_ARTIFACT)
    assert (facts.kind, facts.blobs) == (ImageKind.ARTIFACT, ((LAYER["digest"], 100),))


def test_an_unknown_media_type_is_kept_with_its_subject_and_nothing_else() -> None:
    facts = read_manifest(dumps({"layers": "anything", "subject": CHILD}), "application/vnd.example.thing+json")
    assert (facts.kind, facts.subject, facts.blobs) == (ImageKind.OTHER, CHILD["digest"], ())


def test_unknown_fields_and_data_fields_are_fine() -> None:
    document = {**IMAGE, "extra": {"deep": [1]}, "config": {**CONFIG, "data": "e30="}}
    assert read_manifest(dumps(document), OCI_IMAGE).kind is ImageKind.IMAGE


def test_a_blob_named_twice_is_listed_once() -> None:
    facts = read_manifest(dumps({**IMAGE, "layers": [LAYER, LAYER]}), OCI_IMAGE)
    assert (len(facts.blobs), facts.image_size) == (2, 200)


def test_four_mebibytes_are_taken_and_one_byte_more_is_not() -> None:
    content = dumps(IMAGE)
    assert read_manifest(content + b" " * (MANIFEST_MAX - len(content)), OCI_IMAGE).kind is ImageKind.IMAGE
    assert refusal(content + b" " * (MANIFEST_MAX - len(content) + 1)).code is Code.MANIFEST_TOO_LARGE


def test_schema_1_is_refused_by_name() -> None:
    assert refusal(dumps({"schemaVersion": 1}), DOCKER_IMAGE).code is Code.UNSUPPORTED


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "JSON"),
        (b"not json", "JSON"),
        (b"[]", "object"),
        (b'"text"', "object"),
        (b"\xff\xfe{}", "UTF-8"),
        (b'{"a": NaN}', "NaN"),
        (b'{"schemaVersion": 2, "schemaVersion": 2}', "twice"),
        (b'{"config": {"size": 1, "size": 2}}', "twice"),
        (b'{"a":' * 100_000, "nested"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested"),
        (b"[" * 2_000_000 + b"]" * 2_000_000, "nested"),
        (b'{"a":' + b"9" * 5000 + b"}", "JSON"),
    ],
    ids=range(12),
)
def test_what_is_no_sound_json_object_is_refused(content: bytes, word: str) -> None:
    failure = refusal(content)
    assert failure.code is Code.MANIFEST_INVALID
    assert word in failure.message


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"schemaVersion": 3}, "schemaVersion"),
        ({"schemaVersion": "2"}, "schemaVersion"),
        ({"schemaVersion": True}, "schemaVersion"),
        ({"schemaVersion": 2.0}, "schemaVersion"),
        ({"mediaType": OCI_INDEX}, "mediaType"),
        ({"mediaType": 7}, "mediaType"),
        ({"config": None}, "config"),
        ({"config": []}, "config"),
        ({"layers": {}}, "layers"),
        ({"layers": ["x"]}, "layers[0]"),
        ({"layers": [LAYER, {**LAYER, "digest": "sha256:" + "B" * 64}]}, "layers[1].digest"),
        ({"layers": [{**LAYER, "digest": "md5:" + "b" * 32}]}, "layers[0].digest"),
        ({"layers": [{**LAYER, "digest": None}]}, "layers[0].digest"),
        ({"layers": [{**LAYER, "size": -1}]}, "layers[0].size"),
        ({"layers": [{**LAYER, "size": True}]}, "layers[0].size"),
        ({"layers": [{**LAYER, "size": "5"}]}, "layers[0].size"),
        ({"layers": [{**LAYER, "size": 2**63}]}, "layers[0].size"),
        ({"layers": [{**LAYER, "mediaType": ""}]}, "layers[0].mediaType"),
        ({"layers": [{**LAYER, "urls": "x"}]}, "layers[0].urls"),
        ({"annotations": {"a": 1}}, "annotations"),
        ({"subject": {"digest": "x"}}, "subject.mediaType"),
        ({"manifests": [CHILD]}, "manifests"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_wrong_field_is_refused_by_its_name(change: dict[str, Any], field: str) -> None:
    failure = refusal(dumps({**IMAGE, **change}))
    assert failure.code is Code.MANIFEST_INVALID
    assert failure.fields["field"] == field


def test_one_digest_with_two_sizes_is_refused() -> None:
    assert "two sizes" in refusal(dumps({**IMAGE, "layers": [LAYER, {**LAYER, "size": 1}]})).message


@pytest.mark.parametrize("header", ["nonsense", "a/b\x00", "/", "x" * 300 + "/y"])
def test_a_content_type_that_is_no_media_type_is_refused(header: str) -> None:
    assert "Content-Type" in refusal(dumps(without(IMAGE, "mediaType")), header).message


@pytest.mark.parametrize(
    "content",
    [b'"\\"' + b'\\"' * 1_900_000, b"{" * MANIFEST_MAX, b"[]" * (MANIFEST_MAX // 2), b'"' * MANIFEST_MAX],
    ids=["open string", "open objects", "flat", "quotes"],
)
def test_the_worst_four_mebibytes_cost_less_than_a_second(content: bytes) -> None:
    began = time.thread_time()
    refusal(content)
    assert time.thread_time() - began < 1.0
