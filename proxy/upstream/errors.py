"""What goes wrong with one request to another registry."""

from __future__ import annotations


class RequestFailed(Exception):
    """One operation failed. `kind` is what reports count by, such as "404 NAME_UNKNOWN" or "wrong-length"; `said` is
    our own text about it, never a server's, which could repeat a secret."""

    def __init__(self, kind: str, said: str = "") -> None:
        super().__init__(f"{kind}: {said}" if said else kind)
        self.kind = kind
        self.said = said
