"""What goes wrong: with the rig's settings."""

from __future__ import annotations

from proxy.model.errors import OperatorError


class InvalidLoad(OperatorError):
    """A setting is wrong; the text names it and says what to do."""

    exit_status = 2


class LoadFailed(OperatorError):
    """The load cannot run against this registry; the text says why and what to do."""
