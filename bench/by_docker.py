"""How long a real docker takes to push an image to each of two registries, and to pull it: by turns, new each time.

Needs root and the Docker Engine; a private one is started. What docker itself takes is in both figures.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from ratios import Ratio, ratios

from support.engines import Docker, docker_engine
from support.images import tree
from support.server import Server

SIZE = 2**20
REPOSITORY = "bench/docker"


def by_docker(servers: Mapping[str, Server], rounds: int) -> dict[str, Ratio]:
    """Of `docker push` and `docker pull`: medians of "small" and "full", in seconds, and what they show."""
    took: dict[str, dict[str, list[float]]] = {does: {name: [] for name in servers} for does in ("push", "pull")}
    with tempfile.TemporaryDirectory(prefix="wharfage-") as home, docker_engine(Path(home) / "d") as socket:
        docker = Docker(socket, Path(home) / "config")
        for server in servers.values():
            who = ("--username", "AWS", "--password-stdin")
            docker("login", *who, f"127.0.0.1:{server.port}", stdin=server.password())
        for number in range(rounds + 1):
            for place, (name, server) in enumerate(_turned(servers, number)):
                reference = f"127.0.0.1:{server.port}/{REPOSITORY}:r{number}"
                docker("import", "-", reference, stdin=tree(2 * number + place, SIZE))
                pushed = _timed(docker, "push", reference)
                docker("image", "rm", reference)
                pulled = _timed(docker, "pull", reference)
                docker("image", "rm", reference)
                if number:  # the first one begins connections and creates the repository
                    took["push"][name].append(pushed)
                    took["pull"][name].append(pulled)
    return {does: ratios(sides["small"], sides["full"], rounds, [0.5])[0] for does, sides in took.items()}


def _turned(servers: Mapping[str, Server], number: int) -> list[tuple[str, Server]]:
    return list(servers.items()) if number % 2 else list(servers.items())[::-1]


def _timed(docker: Docker, *words: str) -> float:
    began = time.perf_counter()
    docker(*words)
    return time.perf_counter() - began
