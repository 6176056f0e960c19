"""A registry of many nodes on loopback, every part a real one: what the README calls outgrown.

    client ──> nginx ──> `wharfage proxy` × 3 ──> `wharfage metadata` × 2 ──> PostgreSQL
                                  └─────────────> SeaweedFS (S3)

Each node and each service has a data directory of its own; all have the same master keys and the administrator that
the settings give. Parts are started, stopped, killed and started again one by one, by their own pid, always at the same
address. `through` may put a line of its caller's in between: it is told who asks for which port, and returns the port
to ask. What PostgreSQL and SeaweedFS are is the caller's choice: `Cluster` neither starts nor stops them.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from proxy.registry.upload_ids import upload_name
from support import balancer, faketime, postgresql
from support.programs import ROOT, Daemon, run
from support.seaweed import Seaweed
from support.server import START_SECONDS, Server, free_port, password_at

ACCESS_KEY_ID, SECRET_ACCESS_KEY = "AKIAWHARFAGECLUSTER1", "the-cluster's-administrator-only"

_PORT = re.compile(r"(?<=:)\d+(?=/|$)")

SERVICES = 2

Through = Callable[[str, int], int]


def directly(_: str, port: int) -> int:
    return port


@dataclass(slots=True)
class Cluster:
    """Made by `begin`; parts are numbered from 0. `nodes` are servers like any other, of workers only."""

    folder: Path
    database: str
    store: Mapping[str, str]
    through: Through
    workers: int
    watched: bool
    nodes: list[Server]
    service_ports: list[int]
    port: int
    skews: Sequence[float] = ()
    of_nodes: Mapping[str, str] = field(default_factory=dict)
    services: list[Daemon | None] = field(default_factory=list)
    nginx: Daemon | None = None
    secret: str = field(default_factory=lambda: secrets.token_hex(16))

    @classmethod
    def begin(
        cls,
        folder: Path,
        rows: postgresql.Cluster,
        seaweed: Seaweed,
        *,
        nodes: int = 3,
        services: int = SERVICES,
        workers: int = 1,
        through: Through = directly,
        watched: bool = False,
        skews: Sequence[float] = (),
        of_nodes: Mapping[str, str] | None = None,
    ) -> Cluster:
        """All parts running and ready. `folder` is there and empty: it names the database and the bucket's prefix.
        `skews` are the seconds by which services' clocks are ahead, by number; 0.0 or none: right. `of_nodes`
        is further environment of each node."""
        name = f"{folder.name}-{secrets.token_hex(4)}"
        store = seaweed.settings(f"{name}/")
        made = cls(
            folder=folder,
            database=rows.database(name),
            store=store,
            through=through,
            workers=workers,
            watched=watched,
            skews=skews,
            of_nodes=of_nodes or {},
            nodes=[],
            service_ports=[free_port() for _ in range(services)],
            port=free_port(),
            services=[None] * services,
        )
        try:
            made._begin(nodes)
        except BaseException:
            made.abandon()
            raise
        return made

    def _begin(self, nodes: int) -> None:
        for number in range(len(self.services)):
            self.start_service(number)  # the first names the store and makes the administrator
        for number in range(nodes):
            data = self.folder / f"node{number}"
            self.nodes.append(Server(self._run_node(data, port := free_port()), f"127.0.0.1:{port}", data))
        for node in self.nodes:
            _wait(node.daemon, node.is_ready)
        self.start_nginx()

    # ---- what clients need ---------------------------------------------------------------------------------------
    @property
    def address(self) -> str:
        """host:port of nginx."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def password(self) -> str:
        return password_at(self.url, ACCESS_KEY_ID, SECRET_ACCESS_KEY)

    def nodes_of_uploads(self) -> dict[str, set[str]]:
        """By each upload session's path: the nodes that nginx sent its requests to, the POST that opened it too."""
        found: dict[str, set[str]] = {}
        for one in balancer.passed(self.folder):
            path = (one.location if one.method == "POST" else one.target).partition("?")[0]
            where, _, upload_id = path.rpartition("/")
            if where.endswith("/blobs/uploads"):
                found.setdefault(f"{where}/{upload_name(upload_id)}", set()).update(one.nodes)
        return found

    def check(self, *more: str) -> str:
        """What `wharfage check` says, run as on the first node; it must find all well."""
        data = self.nodes[0].data
        return run(sys.executable, "-m", "proxy", "check", "--data", data, *more, extra=self.node_settings(data)).stdout

    # ---- parts ---------------------------------------------------------------------------------------------------
    def start_service(self, number: int) -> None:
        data = self.folder / f"service{number}"
        listen = f"127.0.0.1:{self.service_ports[number]}"
        database = self._line(data.name, "postgresql", self.database)
        extra = self._settings() | {"WHARFAGE_METADATA_DATABASE": database}
        if number < len(self.skews) and self.skews[number]:
            extra |= faketime.skewed(self.skews[number])
        said = log.stat().st_size if (log := _log(data)).exists() else 0  # by the one before
        daemon = self._run("metadata", "--data", str(data), "--listen", listen, log=data, extra=extra)
        self.services[number] = daemon
        _wait(daemon, lambda: b" is ready." in daemon.log.read_bytes()[said:])

    def start_node(self, number: int) -> None:
        node = self.nodes[number]
        node.daemon = self._run_node(node.data, node.port)
        _wait(node.daemon, node.is_ready)

    def start_nginx(self) -> None:
        ports = [node.port for node in self.nodes]
        self.nginx = balancer.start(self.folder, self.port, ports, as_root=os.geteuid() == 0)

    def kill_service(self, number: int) -> None:
        if (daemon := self.services[number]) is not None:
            daemon.kill()

    def kill_node(self, number: int) -> None:
        self.nodes[number].daemon.kill()

    def finish(self) -> None:
        """End all parts in order; each must end well."""
        if self.nginx is not None:
            self.nginx.stop()
        with ThreadPoolExecutor(8) as threads:  # each drains for itself
            ended = list(threads.map(Server.stop, self.nodes))
            ended += threads.map(Daemon.stop, [each for each in self.services if each is not None])
        assert set(ended) == {0}, f"{ended}\n{self.tails()}"

    def abandon(self) -> None:
        for daemon in self._daemons():
            daemon.kill()

    def tails(self) -> str:
        """The end of every part's log, for a failure's report."""
        return "\n".join(daemon.tail() for daemon in self._daemons())

    def _daemons(self) -> Iterator[Daemon]:
        yield from (each for each in (self.nginx, *self.services) if each is not None)
        yield from (node.daemon for node in self.nodes)

    # ---- how -----------------------------------------------------------------------------------------------------
    def node_settings(self, data: Path) -> dict[str, str]:
        """The environment of the node that works in `data`."""
        urls = [
            self._line(data.name, f"service{number}", f"http://127.0.0.1:{port}")
            for number, port in enumerate(self.service_ports)
        ]
        store = self._line(data.name, "s3", self.store["WHARFAGE_STORAGE_ENDPOINT"])
        return self._settings() | {"WHARFAGE_METADATA_URL": ",".join(urls), "WHARFAGE_STORAGE_ENDPOINT": store}

    def _settings(self) -> dict[str, str]:
        """What services and nodes have in common."""
        return {
            **self.store,
            "WHARFAGE_METADATA_SECRET": self.secret,
            "WHARFAGE_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "WHARFAGE_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
            "WHARFAGE_KEYS_FILE": str(self.folder / "master.json"),
            "WHARFAGE_SERVER_URL": self.url,
            "WHARFAGE_SERVER_TRUSTED_PROXIES": "127.0.0.1",
            "WHARFAGE_SERVER_LOGIN_FAILURES": "0",  # all tests come from one address
        }

    def _run_node(self, data: Path, port: int) -> Daemon:
        listen = ["--listen", f"127.0.0.1:{port}", "--workers", str(self.workers)]
        settings = self.node_settings(data) | {"WHARFAGE_SERVER_ADVERTISE": f"http://127.0.0.1:{port}", **self.of_nodes}
        return self._run("proxy", "--data", str(data), *listen, log=data, extra=settings)

    def _run(self, *words: str, log: Path, extra: Mapping[str, str]) -> Daemon:
        program = [str(ROOT / "tests" / "support" / "serve_watched.py")] if self.watched else ["-m", "proxy"]
        return Daemon.start([sys.executable, *program, *words], _log(log), extra)

    def _line(self, who: str, part: str, url: str) -> str:
        """`url` with the port by which `who` asks `part`."""
        return _PORT.sub(lambda found: str(self.through(f"{who}-{part}", int(found[0]))), url)


def _wait(daemon: Daemon, is_ready: Callable[[], bool]) -> None:
    """One that is late is gone, so that it can be started again."""
    try:
        daemon.wait_until(is_ready, START_SECONDS)
    except BaseException:
        daemon.kill()
        raise


def _log(data: Path) -> Path:
    return data.with_name(f"{data.name}.log")
