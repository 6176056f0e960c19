"""botocore's private members are as this server expects them, and no other module of `proxy` uses one."""

from __future__ import annotations

import ast
import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession

import proxy
from proxy.storage.s3 import botocore_internals
from proxy.storage.s3.bucket import load
from proxy.storage.s3.retries import LazyClient

FOLDER = Path(proxy.__file__).parent
INTERNALS = Path(botocore_internals.__file__)
PRIVATE = {"_endpoint", "_request_signer", "_credentials", "_proxy_config", "_build_verify_context"}


async def test_a_client_has_its_http_session_and_its_credentials() -> None:
    def make() -> Any:
        return load().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url="https://s3.example",
            aws_access_key_id="AKIAEXAMPLE",
            aws_secret_access_key="the-secret",
            config=AioConfig(http_session_cls=AIOHTTPSession, proxies={"https": "http://proxy.example:3128"}),
        )

    lazy = LazyClient(make)
    client = await lazy.get()
    frozen = await botocore_internals.frozen_credentials(client)
    assert (frozen.access_key, frozen.secret_key, frozen.token) == ("AKIAEXAMPLE", "the-secret", None)
    session = botocore_internals.http_session(client)
    assert isinstance(session, AIOHTTPSession)
    assert botocore_internals.proxy_url(session, "https://s3.example/b") == "http://proxy.example:3128"
    assert botocore_internals.proxy_url(session, "http://s3.example/b") is None
    assert isinstance(await asyncio.to_thread(botocore_internals.tls_context, session), ssl.SSLContext)
    await lazy.close()


def test_the_module_uses_just_these_members() -> None:
    assert {name for name in _private_attributes(INTERNALS) if name in PRIVATE} == PRIVATE


@pytest.mark.parametrize("name", ["requests.py", "session.py", "bucket.py", "retries.py", "signed_urls.py"])
def test_no_other_module_of_s3_uses_one(name: str) -> None:
    assert _private_attributes(FOLDER / "storage" / "s3" / name).isdisjoint(PRIVATE)


def test_kms_uses_none() -> None:
    assert _private_attributes(FOLDER / "blob" / "kms.py").isdisjoint(PRIVATE)


def _private_attributes(path: Path) -> set[str]:
    """Private attributes that a module reads of other objects or of a base class."""
    tree = ast.parse(path.read_text())
    return {each.attr for each in ast.walk(tree) if isinstance(each, ast.Attribute) and each.attr.startswith("_")}
