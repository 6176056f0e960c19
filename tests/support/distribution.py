"""CNCF distribution, as a registry that is not ours: an upstream, or the rig's target."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.programs import Daemon
from support.server import listens


def start_distribution(folder: Path, port: int, **settings: Any) -> Daemon:
    """It serves 127.0.0.1:`port` from below `folder`; `settings` are added to its file. Needs `registry`."""
    written = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "far")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    (folder / "far.yml").write_text(json.dumps(written | settings))  # which is YAML
    daemon = Daemon.start(
        ["registry", "serve", folder / "far.yml"], folder / "far.log", {"OTEL_TRACES_EXPORTER": "none"}
    )
    try:
        daemon.wait_until(lambda: listens(port))
    except BaseException:
        daemon.kill()
        raise
    return daemon


@contextmanager
def distribution(folder: Path, port: int, **settings: Any) -> Iterator[Daemon]:
    """`start_distribution`, stopped at the end."""
    daemon = start_distribution(folder, port, **settings)
    try:
        yield daemon
    finally:
        daemon.stop()
