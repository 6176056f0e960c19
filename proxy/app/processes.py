"""Starts a server's processes for `wharfage serve`: locks the data directory, binds, prints how to log in, supervises.

Promises: the parent binds the sockets and loads every module before it forks; a second server on one data directory is
refused; no secret is printed. `worker` has what each process then runs. Called by `cli.main`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from proxy import observe
from proxy.app import keys, stores, worker
from proxy.app.metadata import metadata_addresses
from proxy.app.router import hosts_of, issuers_authorities, rates_of
from proxy.blob import hashers
from proxy.config.loader import ConfigError
from proxy.config.settings import Config
from proxy.http.tls import server_context
from proxy.metadata.client.epochs import Epochs
from proxy.metadata.cluster import subscriber
from proxy.model.errors import Failure
from proxy.runtime import data_directory, supervisor
from proxy.runtime.child import run_child
from proxy.runtime.data_directory import DataDirectory
from proxy.runtime.file_limit import connections_within, raise_file_limit
from proxy.runtime.supervisor import Lifeline, ProcessRole


def serve(config: Config, *, metadata: bool, workers: bool, say: Callable[[str], None]) -> int:
    """Run until a signal; returns the exit status. `metadata` and `workers` choose the roles; `say` prints a line.

    Raises `ConfigError` and `DataDirectoryBusy`, OSError for an address that cannot be bound.
    """
    configure_log(config)
    data = data_directory.open_data(config)
    if metadata:
        data_directory.lock_data_directory(data)  # until the last process of this server has ended
    for warning in config.warnings:
        observe.log.warning(warning)
    keys.master_keys(config, data)  # created, or refused, before anything runs
    keys.preload(config)
    if workers or not (config.metadata.database or data.database.exists()):  # with no rows of its own it needs no store
        stores.claim_store(config, data)
    if workers:
        stores.preload(config)
        rates_of(config)  # understood, or refused, before anything forks
        if config.sts.oidc_issuers:
            issuers_authorities(config.sts.oidc_ca_bundle)  # read, or refused, before anything forks
    roles: list[ProcessRole] = []
    listening: list[socket.socket] = []
    probing: list[socket.socket] = []
    bound: list[socket.socket] = []  # both, to be closed by processes that serve neither
    files = raise_file_limit()
    if metadata:
        if config.metadata.listen and config.metadata.tls_cert:
            worker.metadata_tls(Path(config.metadata.tls_cert), Path(config.metadata.tls_key))  # or refused here
        roles.append(ProcessRole("metadata", "metadata", functools.partial(_metadata, config, data, bound), stops=0))
    if workers and config.metadata.url:
        metadata_addresses(config, data)  # its authorities are read, or refused, before anything forks
        subscriber.revoke_lease(data.node_epochs)  # workers may start before the process that renews it
        roles.append(ProcessRole("watch", "watch", functools.partial(_watch, config, data, bound), stops=0))
    if workers:
        config, tls = _with_tls(config, data)
        config = _with_file_limit(config, files)
        listening += bind(config.server.listen)
        bound += listening
        if config.server.probes:
            try:
                probing += bind(config.server.probes)
            except OSError:
                _close(bound)
                raise
            bound += probing
        run = functools.partial(_worker, config, data, listening, probing, tls)
        count = config.server.workers or len(os.sched_getaffinity(0))
        roles += [ProcessRole(f"worker{number}", "worker", run) for number in range(count)]
        observe.share_metrics("supervisor", [role.name for role in roles])
        scheme = "https" if config.server.tls_cert else "http"
        data_directory.replace_private(data.address, f"{scheme}://{reachable_address(config, listening)}".encode())
        _warn(config, [sock.getsockname()[0] for sock in listening])
    return supervisor.supervise(
        roles,
        drain_seconds=config.server.drain_delay_seconds + config.server.drain_seconds,
        ready=functools.partial(_greet, config, data, listening, sum(role.kind == "worker" for role in roles), say),
        stopping=functools.partial(_close, bound),
    )


def configure_log(config: Config) -> None:
    form = config.log.form
    if form == "auto":
        form = "console" if sys.stderr.isatty() else "json"
    observe.configure_log(form, config.log.level)


def bind(listen: str) -> list[socket.socket]:
    """Listening sockets for HOST:PORT (every address of HOST; an empty HOST is all of the machine's), non-blocking."""
    host, _, port = listen.rpartition(":")
    found: list[socket.socket] = []
    addresses = socket.getaddrinfo(
        host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    for family, kind, protocol, _, address in dict.fromkeys(addresses):
        sock = socket.socket(family, kind, protocol)
        found.append(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind(address)
        except OSError as error:
            _close(found)
            raise OSError(error.errno, f"cannot listen on {listen}: {error.strerror}") from error
        sock.listen(1024)
        sock.setblocking(False)
    return found


def reachable_address(config: Config, listening: Sequence[socket.socket]) -> str:
    """HOST:PORT that a client on this machine can use."""
    host, port = listening[0].getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104  # told apart, not bound
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    asked = config.server.listen.rpartition(":")[0]
    if asked and not asked.startswith("[") and not asked[0].isdigit():
        host = asked  # the certificate is made for the configured name
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _close(listening: Sequence[socket.socket]) -> None:
    """Close the port: while any process has it open, connections are queued, and may never be answered."""
    for sock in listening:
        sock.close()


def _metadata(config: Config, data: DataDirectory, bound: Sequence[socket.socket], lifeline: Lifeline) -> None:
    _close(bound)
    masters = keys.master_keys(config, data)
    try:
        run_child(lambda stop: worker.serve_metadata(config, data, masters, stop, lifeline.signal_ready), lifeline)
    except Failure as failure:  # an unreachable database, keys that differ from others': one line, no trace
        observe.log.error(failure.message, hint=failure.hint)
        raise SystemExit(1) from failure


def _watch(config: Config, data: DataDirectory, bound: Sequence[socket.socket], lifeline: Lifeline) -> None:
    _close(bound)
    run_child(lambda stop: worker.watch_metadata(config, data, stop, lifeline.signal_ready), lifeline)


def _worker(
    config: Config,
    data: DataDirectory,
    listening: Sequence[socket.socket],
    probing: Sequence[socket.socket],
    tls: ssl.SSLContext | None,
    lifeline: Lifeline,
) -> None:
    masters = keys.master_keys(config, data)
    epochs = Epochs(data.node_epochs if config.metadata.url else data.epochs)
    try:
        run_child(
            lambda stop: worker.serve_worker(
                config, data, masters, listening, tls, stop, lifeline.signal_ready, epochs=epochs, probing=probing
            ),
            lifeline,
        )
    except Failure as failure:
        observe.log.error(failure.message, hint=failure.hint)
        raise SystemExit(1) from failure


def _with_file_limit(config: Config, files: int) -> Config:
    """The settings with as many connections as that many files allow."""
    wanted = config.server.connections
    found = connections_within(files, wanted)
    if found < wanted and "server.connections" in config.sources:
        observe.log.warning("fewer connections than set: the limit of open files", connections=found, files=files)
    return dataclasses.replace(config, server=dataclasses.replace(config.server, connections=found))


def _with_tls(config: Config, data: DataDirectory) -> tuple[Config, ssl.SSLContext | None]:
    """The settings with the certificate and key in use, and their TLS context."""
    cert, key = config.server.tls_cert, config.server.tls_key
    if config.server.tls_self_signed:
        from proxy.http.selfsigned import make_self_signed  # X.509 is loaded by those who want it

        host = config.server.listen.rpartition(":")[0].strip("[]")
        _, made_cert, made_key = make_self_signed(data.tls, host, hosts_of(config).certified())
        cert, key = str(made_cert), str(made_key)
    if not cert:
        return config, None
    try:
        context = server_context(Path(cert), Path(key))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"[server] tls_cert {cert}, tls_key {key}: cannot be used: {error}") from error
    return dataclasses.replace(config, server=dataclasses.replace(config.server, tls_cert=cert, tls_key=key)), context


def _warn(config: Config, hosts: Sequence[str]) -> None:
    off_loopback = [host for host in hosts if not _is_loopback(host)]
    if off_loopback and not config.server.tls_cert and not config.server.trusted_proxies:
        observe.log.warning(
            "plain HTTP beyond this machine: passwords and images travel in the clear, and docker wants "
            "--insecure-registry; use --tls-cert and --tls-key, or --tls-self-signed for a first try",
            addresses=off_loopback,
        )
    for section, what in _PLAINTEXT.items():
        if getattr(config, section).plaintext:
            observe.log.warning(f"[{section}] plaintext: {what} travel as they are")
    if hashers.implementation == "pure":
        observe.log.warning(
            f"!!! PURE PYTHON: bytes are hashed at {hashers.measure():,.0f} MB/s a core, because {hashers.reason}. "
            "With a C compiler and Python's headers, install wharfage again for full speed !!!"
        )


_PLAINTEXT = {
    "metadata": "names, rows and the shared secret",
    "storage": "objects and signed requests",
    "keys": "data keys",
}


def _is_loopback(host: str) -> bool:
    return host == "::1" or host.startswith("127.")


def _greet(
    config: Config, data: DataDirectory, listening: Sequence[socket.socket], workers: int, say: Callable[[str], None]
) -> None:
    """Print the address, the data directory and how to log in. Only paths and commands: no secret."""
    if not listening:
        say(f"The metadata service of {data.root} is ready.")
        return
    scheme = "https" if config.server.tls_cert else "http"
    address = reachable_address(config, listening)
    public = config.server.url.rstrip("/") or f"{scheme}://{address}"
    host = public.partition("://")[2]
    export = f"export AWS_DEFAULT_REGION={config.registry.region}"
    elsewhere = not config.keys.access_key_id and not data.credentials.exists()
    if not config.keys.access_key_id:
        export += f" AWS_SHARED_CREDENTIALS_FILE={data.credentials}"
    if config.server.tls_self_signed:
        export += f" AWS_CA_BUNDLE={data.tls / 'ca.crt'}"
    login = f"docker login -u AWS --password-stdin {host}"
    say(f"Wharfage is ready at {public} ({workers} workers).")
    say(f"  data      {data.root}")
    if config.storage.backend == "s3":
        honoured = stores.known_conditions(config, data)
        where = f"s3://{config.storage.bucket}/{config.storage.prefix}"
        say(f"  objects   {where} (conditional requests: {'not known' if honoured is None else honoured})")
    if config.server.tls_self_signed:
        folder = f"/etc/docker/certs.d/{host}"
        say(f"  trust     sudo mkdir -p {folder} && sudo cp {data.tls / 'ca.crt'} {folder}/ca.crt")
    if elsewhere:
        say(f"  first     bring {data.credentials.name} from another node to {data.credentials}: it was made there")
    say(f"  log in    {export}")
    say(f"            aws ecr get-login-password --endpoint-url {public} | {login}")
    say(f"  or        wharfage token --data {data.root} | {login}")
    say(f"  push      docker push {host}/team/app:v1")
