"""A private Docker Engine and a private containerd: own data, own sockets, nothing of the machine's touched.

Both need root. Sockets want short paths (108 bytes), so `home` is best a short one.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.programs import Daemon, run


@dataclass(frozen=True, slots=True)
class Docker:
    """The docker command, talking to one private engine, with its logins in one private folder.

    `inside` is what stands before each command (`Names.inside`), `extra` more of its environment."""

    socket: Path
    config: Path
    inside: tuple[str | Path, ...] = ()
    extra: Mapping[str, str] = field(default_factory=dict)

    def __call__(
        self, *words: str, stdin: str | bytes | None = None, ok: bool = True
    ) -> subprocess.CompletedProcess[str]:
        mine = (*self.inside, "docker", "--config", self.config, "--host", f"unix://{self.socket}")
        return run(*mine, *words, stdin=stdin, extra=self.extra, ok=ok)

    def image_id(self, reference: str) -> str:
        """The digest of an image's config."""
        return self("image", "inspect", "--format", "{{.Id}}", reference).stdout.strip()

    def is_up(self) -> bool:
        try:
            self("version")
        except AssertionError:
            return False
        return True


@contextmanager
def docker_engine(home: Path, inside: tuple[str | Path, ...] = (), flags: tuple[str, ...] = ()) -> Iterator[Path]:
    """A running dockerd without a network of its own, started by `inside`, with `flags`; yields its socket."""
    home.mkdir()
    socket = home / "s"
    daemon = Daemon.start(
        [
            *inside,
            "dockerd",
            *("--data-root", home / "data", "--exec-root", home / "exec", "--pidfile", home / "pid"),
            *("--host", f"unix://{socket}", "--bridge=none", "--iptables=false", "--ip6tables=false"),
            *flags,
        ],
        home / "log",
    )
    try:
        daemon.wait_until(lambda: socket.exists() and Docker(socket, home / "config").is_up())
        yield socket
    finally:
        daemon.stop()
        for left in (home / "exec" / "netns").glob("*"):  # an engine that ran containers leaves its mounts behind
            subprocess.run(["umount", left], check=False, capture_output=True)


@contextmanager
def containerd(home: Path) -> Iterator[Path]:
    """A running containerd without CRI; yields its socket."""
    home.mkdir()
    socket = home / "s"
    settings = home / "config.toml"
    settings.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    daemon = Daemon.start(
        ["containerd", "--config", settings, "--root", home / "root", "--state", home / "state", "--address", socket],
        home / "log",
    )
    try:
        daemon.wait_until(socket.exists)
        yield socket
    finally:
        daemon.stop()
