"""What goes wrong: with the rig's settings."""

from __future__ import annotations


class WrongLoad(Exception):
    """A setting is wrong; the text names it and says what to do."""


class CannotLoad(Exception):
    """The load cannot run against this registry; the text says why and what to do."""
