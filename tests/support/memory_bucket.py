"""An S3 bucket in memory that answers at once, and honours some conditional requests only."""

from __future__ import annotations

from typing import Any

from proxy.storage.s3.bucket import S3Refused
from proxy.storage.s3.conditions import Conditions
from support.held_requests import HeldBucket, Requests

OPERATIONS = {"put_object": "put", "complete_multipart_upload": "complete", "delete_object": "delete"}


class OddBucket(HeldBucket):
    """`honours` is what it does; a condition that it does not honour is ignored, or refused with `status`. `sent` are
    all requests, `refuses` operations that are answered 403."""

    def __init__(self, honours: Conditions, status: int = 0, refuses: tuple[str, ...] = ()) -> None:
        super().__init__(Requests(), lambda: 0.0, conditional=True, checks_parts=True)
        self.conditions = honours
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self._status = status
        self._refuses = refuses

    async def once(self, operation: str, *, missing: bool = False, **parameters: Any) -> dict[str, Any]:
        self.sent.append((operation, dict(parameters)))
        if operation in self._refuses:
            raise S3Refused("AccessDenied", 403)
        if operation in OPERATIONS and not getattr(self.conditions, OPERATIONS[operation]):
            dropped = [parameters.pop(name, None) for name in ("IfNoneMatch", "IfMatch")]
            if any(dropped) and self._status:
                raise S3Refused("NotImplemented", self._status)
        if "Body" in parameters:
            parameters["Body"] = bytes(parameters["Body"].view)
        answer: dict[str, Any] = getattr(self, f"_{operation}")(**parameters)
        return answer
