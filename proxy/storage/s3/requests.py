"""The requests that each push and each pull makes, signed and sent by ourselves over the connections of `session`.

aiobotocore takes a millisecond of CPU for a request, which is more than all else that a small layer's costs. Of GETs
only those of a range are meant: whole objects are markers, and seldom asked for. Where the bucket is, botocore says
once; credentials are those of its client at the moment. What these requests do not know (a store that sends elsewhere,
another region, another way to sign, a proxy) is left to aiobotocore, for good.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit
from xml.sax.saxutils import escape, unescape

from botocore.exceptions import ClientError, NoCredentialsError

from proxy.storage.s3.session import DirectSession
from proxy.storage.s3.sigv4 import UNSIGNED, Credentials, signed

OPERATIONS = {
    "put_object": "PUT",
    "create_multipart_upload": "POST",
    "upload_part": "PUT",
    "complete_multipart_upload": "POST",
    "head_object": "HEAD",
    "get_object": "GET",
}
_HEADERS = {
    "IfNoneMatch": "if-none-match",
    "ChecksumCRC32": "x-amz-checksum-crc32",
    "ContentMD5": "content-md5",
    "ChecksumAlgorithm": "x-amz-checksum-algorithm",
    "Range": "range",
}
_KNOWN = {"Key", "Body", "PartNumber", "UploadId", "MultipartUpload", *_HEADERS}
_XMLNS = "http://s3.amazonaws.com/doc/2006-03-01/"
_ELSEWHERE = {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
_CODE = re.compile(rb"<Error>.*?<Code>([^<]{1,100})</Code>", re.DOTALL)
_FIELDS = re.compile(rb"<(UploadId|ETag)>([^<]{1,4096})</")


class Direct:
    """Made by `find`. `ask` gives None for what aiobotocore is to do."""

    def __init__(self, client: Any, base: str, region: str, clock: Callable[[], float]) -> None:
        place = urlsplit(base)
        usual = {"http": 80, "https": 443}[place.scheme]
        name = f"[{place.hostname}]" if ":" in (place.hostname or "") else place.hostname or ""
        self._client = client
        self._base = base
        self._path = place.path
        self._host = name if place.port in (None, usual) else f"{name}:{place.port}"
        self._region = region
        self._clock = clock
        self._session: Any = client._endpoint.http_session
        self._usable = isinstance(self._session, DirectSession) and not self._session.goes_by_proxy(base)

    @staticmethod
    async def find(client: Any, bucket: str, clock: Callable[[], float] = time.time) -> Direct:
        """Where botocore would send requests of `bucket`, and for which region sign them. NoCredentialsError."""
        url = await client.generate_presigned_url("head_object", Params={"Bucket": bucket, "Key": "k"}, ExpiresIn=60)
        base, _, query = url.partition("k?")
        asked = parse_qs(query)
        scope = asked.get("X-Amz-Credential", [""])[0].split("/")[1:]  # an access key has no slash
        made = Direct(client, base, scope[1] if len(scope) == 4 else "", clock)
        is_usual = asked.get("X-Amz-Algorithm") == ["AWS4-HMAC-SHA256"] and scope[2:] == ["s3", "aws4_request"]
        made._usable = made._usable and is_usual and base.endswith("/") and "?" not in base
        return made

    async def ask(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any] | None:
        """What botocore gives for it, as far as we look at that. ClientError, and what a line raises."""
        if not self._usable or operation not in OPERATIONS or not parameters.keys() <= _KNOWN:
            return None
        method = OPERATIONS[operation]
        if method == "GET" and "Range" not in parameters:
            return None
        frozen = await self._client._request_signer._credentials.get_frozen_credentials()
        if not frozen.access_key:
            raise NoCredentialsError
        who = Credentials(frozen.access_key, frozen.secret_key, frozen.token or "")
        key = quote(parameters["Key"], safe="/")
        query = "uploads=" if operation == "create_multipart_upload" else ""
        if "UploadId" in parameters:
            number = f"partNumber={parameters['PartNumber']}&" if "PartNumber" in parameters else ""
            query = f"{number}uploadId={quote(parameters['UploadId'], safe='')}"
        headers = {_HEADERS[name]: str(value) for name, value in parameters.items() if name in _HEADERS}
        at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock()))
        body, payload = _body(method, parameters)
        headers = signed(method, self._host, self._path + key, query, headers, who, self._region, at, payload)
        url = self._base + key + (f"?{query}" if query else "")
        if method == "GET":
            status, told, stream = await self._session.fetch(url, headers)
            if status < 300:
                return {"Body": stream, "ContentRange": told.get("content-range", "")} if stream is not None else None
            content = await stream.read()
        else:
            status, told, content = await self._session.ask(method, url, headers, body)
        found = _CODE.search(content)
        code = found[1].decode("latin-1") if found is not None else str(status)
        if 300 <= status < 400 or code in _ELSEWHERE or (method == "HEAD" and status == 400):
            self._usable = False
            return None
        if status >= 300 or found is not None:  # a 200 may have an error in its body
            facts = {"HTTPStatusCode": max(status, 500) if status < 300 else status}
            raise ClientError({"Error": {"Code": code}, "ResponseMetadata": facts}, operation)
        fields = {name.decode(): _text(value) for name, value in _FIELDS.findall(content)}
        return {"ETag": told.get("etag", ""), "ContentLength": int(told.get("content-length", "0") or 0)} | fields


def _body(method: str, parameters: dict[str, Any]) -> tuple[memoryview | None, str]:
    """What is sent, and what its signature says of it: a stream is known by its checksum, which is signed."""
    if method != "POST":
        body = parameters.get("Body")
        return (body.view if body is not None else None), UNSIGNED
    parts = parameters.get("MultipartUpload", {}).get("Parts", ())
    lines = (
        "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in sorted(part.items())) for part in parts
    )
    inner = "".join(f"<Part>{line}</Part>" for line in lines)
    sent = f'<CompleteMultipartUpload xmlns="{_XMLNS}">{inner}</CompleteMultipartUpload>' if parts else ""
    return memoryview(sent.encode()), hashlib.sha256(sent.encode()).hexdigest()


def _text(value: bytes) -> str:
    return unescape(value.decode("utf-8", "replace"), {"&quot;": '"', "&#34;": '"', "&apos;": "'"})
