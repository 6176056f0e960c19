"""What goes wrong: with the rig's settings, and with one operation."""

from __future__ import annotations


class WrongLoad(Exception):
    """A setting is wrong; the text names it and says what to do."""


class CannotLoad(Exception):
    """The load cannot run against this registry; the text says why and what to do."""


class Failed(Exception):
    """One operation failed. `kind` is what reports count by, such as "404 NAME_UNKNOWN" or "wrong-length"; `said` is
    what the rig itself has to say about it, never a server's text, which could repeat a secret."""

    def __init__(self, kind: str, said: str = "") -> None:
        super().__init__(f"{kind}: {said}" if said else kind)
        self.kind = kind
        self.said = said
