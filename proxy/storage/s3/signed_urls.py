"""Links into a bucket: a signed URL with which a client fetches one object from the store itself, and nothing else.

Whoever has the link has the object for `LINK_SECONDS`, counted from when it was made; a download that has begun by then
goes on. It is signed with the store's own credentials, here, at the cost of no request. Ranges are the client's: its
header is not part of the signature. Must not know who may have a link, nor write one down.
"""

from __future__ import annotations

from typing import Any

from proxy.storage.base import KEY
from proxy.storage.s3.bucket import Bucket, S3Location

LINK_SECONDS = 300  # time enough for a client to begin, also with its clock or the store's a little off


class S3Links:
    """`SignedLinks` to the bucket of `place`, whose endpoint is the one that clients reach."""

    def __init__(
        self, place: S3Location, *, prefix: str = "", session: Any = None, seconds: int = LINK_SECONDS
    ) -> None:
        self._bucket = Bucket(place, session=session)
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
