"""Whether variables that a deployment sets are ones that the program knows: asked of the program itself."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.config import loader
from proxy.config.settings import Config


def settings_of(variables: Mapping[str, object]) -> Config:
    """What the program makes of them. An unknown name, a bad value, one that lacks another: fails."""
    found = loader.load(environ={name: str(value) for name, value in variables.items()})
    assert list(found.warnings) == []
    return found
