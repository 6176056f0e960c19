"""Host names that a test's own programs know and nobody else: a mount namespace with an /etc/hosts of its own. Root.

A registry of many accounts has a name for each, below a domain that is somebody's, or nobody's. `Names` gives programs
such names, and gives a Docker Engine the authorities it trusts for them (/etc/docker/certs.d), with nothing of the
machine's changed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

_SCRIPT = (
    'mount --bind "$0/hosts" /etc/hosts && mkdir -p /etc/docker && mount --bind "$0/docker" /etc/docker && exec "$@"'
)


def own_address() -> str:
    """An IPv4 address of this machine. Best one that is not loopback, whose certificates docker would not look at."""
    found = [
        each.address
        for addresses in psutil.net_if_addrs().values()
        for each in addresses
        if each.family is socket.AF_INET and not each.address.startswith("127.")
    ]
    return found[0] if found else "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Names:
    """`folder` is what is mounted; made by `begin`."""

    folder: Path

    @classmethod
    def begin(cls, folder: Path, names: Sequence[str]) -> Names:
        """All of `names` are `own_address()`. They are known before the first program looks: Go keeps the file for some
        seconds. Skips the test where this cannot be had."""
        if os.geteuid() != 0:
            pytest.skip("needs root, for names in a hosts file of its own")
        (folder / "docker" / "certs.d").mkdir(parents=True)
        lines = ["127.0.0.1 localhost", *(f"{own_address()} {name}" for name in names)]
        (folder / "hosts").write_text("\n".join([*lines, ""]))
        return cls(folder)

    @property
    def inside(self) -> tuple[str | Path, ...]:
        """What stands before a command that is to know the names."""
        return ("unshare", "--mount", "sh", "-c", _SCRIPT, self.folder)

    def trust(self, registry: str, ca: Path) -> None:
        """Docker takes `registry` (host:port) under this authority from now on."""
        place = self.folder / "docker" / "certs.d" / registry
        place.mkdir(parents=True)
        (place / "ca.crt").write_bytes(ca.read_bytes())
