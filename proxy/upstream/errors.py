"""What goes wrong with one request to another registry."""

from __future__ import annotations

from enum import StrEnum


class RequestFailed(Exception):
    """One operation failed. `kind` is what reports count by, such as "404 NAME_UNKNOWN" or "wrong-length"; `said` is
    our own text about it, never a server's, which could repeat a secret."""

    def __init__(self, kind: str, said: str = "") -> None:
        super().__init__(f"{kind}: {said}" if said else kind)
        self.kind = kind
        self.said = said


class UpstreamReason(StrEnum):
    """What a failed request to an upstream means for whoever waits for it."""

    MISSING = "missing"  # the upstream says that there is no such thing
    DENIED = "denied"  # it wants other credentials, or none of ours will do
    LIMITED = "limited"  # too many requests, by its count or by ours
    UNAVAILABLE = "unavailable"  # no answer, or one that says nothing: it may be there later
    WRONG = "wrong"  # an answer that is not what it claims to be


class UpstreamFailed(RequestFailed):
    """`seconds`: after which it is worth while to ask again. `asked_as`: the login of the client that asked, if any."""

    def __init__(self, reason: UpstreamReason, kind: str, said: str = "", *, seconds: float = 0.0) -> None:
        super().__init__(kind, said)
        self.reason = reason
        self.seconds = seconds
        self.asked_as: object = None
