"""The requests of each push and pull, signed and sent without aiobotocore over the connections of `session`.

aiobotocore takes a millisecond of CPU for a request, more than the rest of a small layer's push. Only ranged GETs are
sent this way. botocore resolves the bucket's URL once; credentials are the client's current ones. If the store answers
in a way that is not implemented here (a redirect, another region, another signature version, a proxy), all further
requests go through aiobotocore. Used by `bucket`.
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

from proxy.storage.s3.botocore_internals import frozen_credentials, http_session
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
    "StorageClass": "x-amz-storage-class",
}
_KNOWN = {"Key", "Body", "PartNumber", "UploadId", "MultipartUpload", *_HEADERS}
_XMLNS = "http://s3.amazonaws.com/doc/2006-03-01/"
_ELSEWHERE = {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
_CODE = re.compile(rb"<Error>.*?<Code>([^<]{1,100})</Code>", re.DOTALL)
_FIELDS = re.compile(rb"<(UploadId|ETag)>([^<]{1,4096})</")


class Direct:
    """Made by `find`. `ask` returns None for a request that aiobotocore must send."""

    def __init__(self, client: Any, base: str, region: str, clock: Callable[[], float]) -> None:
        endpoint = urlsplit(base)
        usual = {"http": 80, "https": 443}[endpoint.scheme]
        name = f"[{endpoint.hostname}]" if ":" in (endpoint.hostname or "") else endpoint.hostname or ""
        self._client = client
        self._base = base
        self._path = endpoint.path
        self._host = name if endpoint.port in (None, usual) else f"{name}:{endpoint.port}"
        self._region = region
        self._clock = clock
        self._session: Any = http_session(client)
        self._usable = isinstance(self._session, DirectSession) and not self._session.goes_by_proxy(base)

    @staticmethod
    async def find(client: Any, bucket: str, clock: Callable[[], float] = time.time) -> Direct:
        """Takes URL and region from botocore, by a presigned URL. NoCredentialsError."""
        url = await client.generate_presigned_url("head_object", Params={"Bucket": bucket, "Key": "k"}, ExpiresIn=60)
        base, _, query = url.partition("k?")
        asked = parse_qs(query)
        scope = asked.get("X-Amz-Credential", [""])[0].split("/")[1:]  # an access key has no slash
        made = Direct(client, base, scope[1] if len(scope) == 4 else "", clock)
        is_usual = asked.get("X-Amz-Algorithm") == ["AWS4-HMAC-SHA256"] and scope[2:] == ["s3", "aws4_request"]
        made._usable = made._usable and is_usual and base.endswith("/") and "?" not in base
        return made

    async def ask(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any] | None:
        """The members of botocore's result that callers use. ClientError, and connection errors."""
        if not self._usable or operation not in OPERATIONS or not parameters.keys() <= _KNOWN:
            return None
        method = OPERATIONS[operation]
        if method == "GET" and "Range" not in parameters:
            return None
        frozen = await frozen_credentials(self._client)
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
            status, response_headers, stream = await self._session.fetch(url, headers)
            if status < 300:
                return (
                    {"Body": stream, "ContentRange": response_headers.get("content-range", "")}
                    if stream is not None
                    else None
                )
            content = await stream.read()
        else:
            status, response_headers, content = await self._session.ask(method, url, headers, body)
        found = _CODE.search(content)
        code = found[1].decode("latin-1") if found is not None else str(status)
        if 300 <= status < 400 or code in _ELSEWHERE or (method == "HEAD" and status == 400):
            self._usable = False
            return None
        if status >= 300 or found is not None:  # a 200 may have an error in its body
            facts = {"HTTPStatusCode": max(status, 500) if status < 300 else status}
            raise ClientError({"Error": {"Code": code}, "ResponseMetadata": facts}, operation)
        fields = {name.decode(): _text(value) for name, value in _FIELDS.findall(content)}
        return {
            "ETag": response_headers.get("etag", ""),
            "ContentLength": int(response_headers.get("content-length", "0") or 0),
        } | fields


def _body(method: str, parameters: dict[str, Any]) -> tuple[memoryview | None, str]:
    """The body, and its payload hash for the signature: UNSIGNED for a stream, whose checksum header is signed."""
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
