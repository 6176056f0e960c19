"""TLS as a client meets it: a first try with a chain that openssl verifies, and a certificate that changes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import boto3
import pytest

from proxy.http.selfsigned import make_self_signed
from support.programs import Daemon, run
from support.server import Server, free_port


def start(data: Path, ca: Path, *flags: str | Path) -> Server:
    """A server that answers /readyz over TLS under that CA."""
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "proxy", "serve", "--data", data, "--listen", address, "--workers", "2", *flags]
    daemon = Daemon.start(command, data.with_name("tls.log"))
    started = Server(daemon, address, data)

    def ready() -> bool:
        if not ca.exists():
            return False
        try:
            with urllib.request.urlopen(f"https://{address}/readyz", context=trusting(ca), timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        daemon.wait_until(ready)
    except BaseException:
        daemon.kill()
        raise
    return started


def trusting(ca: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(ca))


def certificate(server: Server, ca: Path) -> bytes | None:
    """What the server shows, verified under `ca`."""
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as line,
        trusting(ca).wrap_socket(line, server_hostname="127.0.0.1") as secure,
    ):
        return secure.getpeercert(True)


@pytest.mark.needs("openssl")
def test_self_signed_serves_a_chain_that_openssl_verifies(tmp_path: Path) -> None:
    """`openssl s_client` under the CA that was made says Verification: OK; the trust line for docker is printed."""
    data = tmp_path / "data"
    ca = data / "tls" / "ca.crt"
    server = start(data, ca, "--tls-self-signed")
    try:
        done = run(
            "openssl", "s_client", "-connect", server.address, "-CAfile", ca, "-verify_return_error",
            "-verify_ip", "127.0.0.1", stdin="",
        )  # fmt: skip
        assert "Verification: OK" in done.stdout
        token = run(sys.executable, "-m", "proxy", "token", "--data", data).stdout.strip()
        assert len(token) > 100
        said = server.daemon.log.read_text()
        assert f"/etc/docker/certs.d/{server.address}/ca.crt" in said
        assert f"https://{server.address}" in said
    finally:
        assert server.stop() == 0


def test_a_new_certificate_is_taken_without_a_restart(tmp_path: Path) -> None:
    """Every worker shows the new one to new connections soon after the files have changed."""
    ca, old_crt, old_key = make_self_signed(tmp_path / "one", "127.0.0.1")
    new_ca, new_crt, new_key = make_self_signed(tmp_path / "two", "127.0.0.1")
    crt, key = tmp_path / "site.crt", tmp_path / "site.key"
    shutil.copy(old_crt, crt)
    shutil.copy(old_key, key)
    server = start(tmp_path / "data", ca, "--tls-cert", crt, "--tls-key", key)
    try:
        before = [process.pid for process in server.processes()]
        assert certificate(server, ca) is not None
        for source, target in ((new_crt, crt), (new_key, key)):
            shutil.copy(source, tmp_path / "draft")
            os.replace(tmp_path / "draft", target)
        deadline = time.monotonic() + 20
        shown = 0
        while shown < 10:  # in a row: of two workers, neither shows the old one any more
            assert time.monotonic() < deadline, server.daemon.tail()
            try:
                certificate(server, new_ca)
                shown += 1
            except ssl.SSLCertVerificationError:
                shown = 0
                time.sleep(0.1)
        assert [process.pid for process in server.processes()] == before
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize("missing", ["cert", "key"])
def test_a_pair_that_cannot_be_used_is_one_line(tmp_path: Path, missing: str) -> None:
    """A missing file of the pair, and a key of another certificate, end the start with status 2 and no trace."""
    _, crt, key = make_self_signed(tmp_path / "tls", "127.0.0.1")
    pair = {"cert": str(crt), "key": str(key)} | {missing: str(tmp_path / "absent.pem")}
    done = run(
        sys.executable, "-m", "proxy", "serve", "--data", tmp_path / "data", "--listen", f"127.0.0.1:{free_port()}",
        "--tls-cert", pair["cert"], "--tls-key", pair["key"], ok=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "tls_cert" in done.stderr
    assert "Traceback" not in done.stderr


def test_plain_http_on_a_tls_port_is_not_answered_with_anything_of_ours(tmp_path: Path) -> None:
    """A client that forgot https gets no answer, and the server goes on."""
    data = tmp_path / "data"
    ca = data / "tls" / "ca.crt"
    server = start(data, ca, "--tls-self-signed")
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
            line.sendall(b"GET /v2/ HTTP/1.1\r\nHost: r\r\n\r\n")
            assert b"HTTP/1.1 200" not in line.recv(1024)
        assert certificate(server, ca) is not None
    finally:
        assert server.stop() == 0


def test_with_a_suffix_every_name_is_served_under_one_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The APIs by their own hosts, and docker at the endpoint and the repositoryUri that they name."""
    data = tmp_path / "data"
    ca = data / "tls" / "ca.crt"
    settings = tmp_path / "settings.toml"
    settings.write_text("[registry]\nsuffix = 'registry.example'\n")
    server = start(data, ca, "--tls-self-signed", "--config", settings)
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *more, **named: resolve(
            "127.0.0.1" if str(host).endswith("registry.example") else host, *more, **named
        ),
    )

    def aws(service: str, host: str) -> Any:
        key, secret = server.credentials()
        return boto3.client(
            service,
            endpoint_url=f"https://{host}.registry.example:{server.port}",
            region_name="us-east-1",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            verify=str(ca),
        )

    try:
        ecr = aws("ecr", "api.ecr.us-east-1")
        made = ecr.create_repository(repositoryName="team/app")["repository"]
        registry = f"123456789012.dkr.ecr.us-east-1.registry.example:{server.port}"
        assert made["repositoryUri"] == f"{registry}/team/app"
        data_of = ecr.get_authorization_token()["authorizationData"][0]
        assert data_of["proxyEndpoint"] == f"https://{registry}"
        asking = urllib.request.Request(
            f"https://{registry}/v2/team/app/tags/list",
            headers={"Authorization": f"Basic {data_of['authorizationToken']}"},
        )
        with urllib.request.urlopen(asking, context=trusting(ca), timeout=10) as answer:  # noqa: S310  # https
            assert json.loads(answer.read()) == {"name": "team/app", "tags": []}
        assert aws("iam", "iam").create_user(UserName="ann")["User"]["UserName"] == "ann"
        for host in ("sts", "sts.us-east-1"):
            sts = aws("sts", host)
            arn = sts.get_caller_identity()["Arn"]
            presigned = sts.generate_presigned_url("get_caller_identity", HttpMethod="GET")
            with urllib.request.urlopen(presigned, context=trusting(ca), timeout=10) as answer:  # noqa: S310  # https
                assert f"<Arn>{arn}</Arn>" in answer.read().decode()
    finally:
        assert server.stop() == 0
