"""Whether variables that a deployment sets are ones that the program knows: asked of the program itself.

`AWAITED` are settings that deployments are written for and that the program may not have yet.
"""

from __future__ import annotations

from collections.abc import Mapping

from proxy import config
from proxy.settings import Config

AWAITED = {
    "WHARFAGE_METADATA_ADVERTISE",
    "WHARFAGE_METADATA_PLAINTEXT",
    "WHARFAGE_METADATA_CA_BUNDLE",
    "WHARFAGE_METADATA_TLS_CERT",
    "WHARFAGE_METADATA_TLS_KEY",
}


def settings_of(variables: Mapping[str, object]) -> Config:
    """What the program makes of them. An unknown name, a bad value, one that lacks another: fails."""
    found = config.load(environ={name: str(value) for name, value in variables.items()})
    unknown = [warning for warning in found.warnings if warning.split()[0] not in AWAITED]
    assert unknown == []
    return found
