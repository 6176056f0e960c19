"""Failures of one request to another registry. Raised by `upstream` and `rig`, handled by their callers."""

from __future__ import annotations

from enum import StrEnum


class RequestFailed(Exception):
    """One operation failed. `kind` groups failures in reports, such as "404 NAME_UNKNOWN" or "wrong-length"; `said` is
    our own text, never a server's, which could repeat a secret."""

    def __init__(self, kind: str, said: str = "") -> None:
        super().__init__(f"{kind}: {said}" if said else kind)
        self.kind = kind
        self.said = said


class UpstreamReason(StrEnum):
    """What a failed request to an upstream means for its caller."""

    MISSING = "missing"  # the upstream has no such thing
    DENIED = "denied"  # it refuses our credentials, or its address is not allowed
    LIMITED = "limited"  # too many requests, by its limit or by ours
    UNAVAILABLE = "unavailable"  # no response, or a server error: a later request may succeed
    WRONG = "wrong"  # an invalid response


class UpstreamFailed(RequestFailed):
    """`seconds`: after which a retry may succeed. `asked_as`: the login of the client that sent the request, if any."""

    def __init__(self, reason: UpstreamReason, kind: str, said: str = "", *, seconds: float = 0.0) -> None:
        super().__init__(kind, said)
        self.reason = reason
        self.seconds = seconds
        self.asked_as: object = None
