"""Signed links into a bucket: what they say, made without asking anybody."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.exceptions import CredentialRetrievalError

from proxy.model.errors import Code, Failure
from proxy.storage.s3.bucket import Bucket, S3Location
from proxy.storage.s3.signed_urls import LINK_SECONDS, S3Links

KEY = "0a" * 16


@pytest.mark.parametrize(
    ("addressing", "address"),
    [
        ("path", ("s3.example:9000", f"/images/registry/{KEY}")),
        ("virtual", ("images.s3.example:9000", f"/registry/{KEY}")),
    ],
)
async def test_a_link_opens_one_object_at_the_public_address_for_a_short_time(
    addressing: str, address: tuple[str, str]
) -> None:
    place = S3Location("images", "https://s3.example:9000", "eu-west-1", "AKIAEXAMPLE", "the-secret", addressing)
    links = S3Links(place, prefix="registry/")
    found = urlsplit(await links.link(KEY))
    await links.close()
    query = {name: values[0] for name, values in parse_qs(found.query).items()}
    assert (found.scheme, found.netloc, found.path) == ("https", *address)
    assert query["X-Amz-Algorithm"] == "AWS4-HMAC-SHA256"
    assert query["X-Amz-Expires"] == str(LINK_SECONDS) == "300"
    assert query["X-Amz-SignedHeaders"] == "host"  # a Range may come along
    assert "/eu-west-1/s3/aws4_request" in query["X-Amz-Credential"]
    assert "the-secret" not in found.query


async def test_without_credentials_there_is_no_link_and_the_failure_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    links = S3Links(S3Location("images", "https://s3.example"))
    with pytest.raises(Failure, match="no credentials") as caught:
        await links.link(KEY)
    await links.close()
    assert caught.value.code is Code.STORE_UNAVAILABLE


async def test_credentials_that_cannot_be_fetched_now_are_an_unavailable_store_and_no_fault_of_ours() -> None:
    bucket = Bucket(S3Location("images", "https://s3.example"))

    async def once() -> None:
        raise CredentialRetrievalError(provider="iam-role", error_msg="the endpoint does not answer")

    with pytest.raises(Failure, match="no credentials") as caught:
        await bucket.until_answered("put_object", once)
    assert caught.value.code is Code.STORE_UNAVAILABLE


async def test_only_an_object_s_key_is_signed() -> None:
    links = S3Links(S3Location("images", "https://s3.example", access_key_id="a", secret_access_key="b"))
    with pytest.raises(ValueError, match="not an object key"):
        await links.link("wharfage-store")
    await links.close()
