"""Presigned URLs: a client fetches one object from the bucket itself.

A link is valid for `LINK_SECONDS` after it was made, for anybody who has it; a download that has begun goes on. It is
signed with the store's credentials, without a request. Range is not part of the signature. Made by `app.stores`. Must
not know who may have a link, nor log one.
"""

from __future__ import annotations

from typing import Any

from proxy.storage.base import KEY
from proxy.storage.s3.bucket import Bucket, S3Location

LINK_SECONDS = 300  # enough for a client to begin, also with clocks a little off


class S3Links:
    """`SignedLinks` to the bucket of `location`, whose endpoint is the one that clients reach."""

    def __init__(
        self, location: S3Location, *, prefix: str = "", session: Any = None, seconds: int = LINK_SECONDS
    ) -> None:
        self._bucket = Bucket(location, session=session)
        self._prefix = prefix
        self._seconds = seconds

    async def link(self, key: str) -> str:
        if not KEY.fullmatch(key):
            raise ValueError(f"{key[:40]!r} is not an object key")
        return await self._bucket.signed_url(
            "get_object",
            self._seconds,
            Key=self._prefix + key,
            ResponseContentType="application/octet-stream",
        )

    async def close(self) -> None:
        await self._bucket.close()
