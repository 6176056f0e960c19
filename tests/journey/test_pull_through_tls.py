"""Upstreams over TLS: who vouches for them, what this side shows, and proxies on the way."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from proxy.http.selfsigned import make_self_signed
from support.connect_proxy import ConnectProxy
from support.other_registry import FarRegistry
from support.pull_through_world import LAYER, digest_of, world


def server_tls(folder: Path, host: str, clients: Path | None = None) -> tuple[ssl.SSLContext, Path]:
    """What an upstream shows, and the file of the authority that vouches for it. `clients`: it wants one of those."""
    authority, certificate, key = make_self_signed(folder, host)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients)
    return context, authority


def client_certificate(path: Path) -> Path:
    """A certificate and its key in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "wharfage")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, *form)
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return path


@pytest.mark.parametrize("shows", [True, False])
async def test_an_upstream_is_trusted_by_its_ca_bundle_and_shown_a_client_certificate(
    tmp_path: Path, shows: bool
) -> None:
    """And without either it is not asked anything."""
    mine = await asyncio.to_thread(client_certificate, tmp_path / "client.pem")
    context, authority = await asyncio.to_thread(server_tls, tmp_path / "tls", "127.0.0.1", clients=mine)
    far = FarRegistry()
    async with far.serving(context) as address:
        entry = f'{{url = "https://{address}", ca_bundle = "{authority}"'
        entry += f', client_cert = "{mine}"}}' if shows else "}"
        async with world(tmp_path, upstreams=f"[{entry}]") as there:
            await there.rule("tls", address)
            far.address = address
            far.add_image("team/app", "1", LAYER)
            status, _, _ = await there.get("tls/team/app/manifests/1")
            assert status == (200 if shows else 503)
            assert bool(far.asked) is shows
            if shows:
                assert (await there.get(f"tls/team/app/blobs/{digest_of(LAYER)}"))[2] == LAYER


async def test_an_upstream_that_nobody_vouches_for_is_asked_nothing(tmp_path: Path) -> None:
    context, _ = await asyncio.to_thread(server_tls, tmp_path / "tls", "127.0.0.1")
    far = FarRegistry()
    async with far.serving(context) as address, world(tmp_path, upstreams=f'["https://{address}"]') as there:
        await there.rule("tls", address)
        assert (await there.get("tls/team/app/manifests/1"))[0] == 503
        assert far.asked == []


@pytest.mark.parametrize("exempt", [False, True])
async def test_requests_go_through_the_environments_proxy_unless_no_proxy_names_the_upstream(
    tmp_path: Path, exempt: bool
) -> None:
    """The name is the proxy's to look up; its password goes to it alone, and is in no log."""
    proxy, far = ConnectProxy("me:pr0xy-password"), FarRegistry()
    context, authority = await asyncio.to_thread(server_tls, tmp_path / "tls", "far.test")
    async with far.serving(context) as address, proxy.serving() as via:
        name = f"far.test:{address.rpartition(':')[2]}"
        extra = {"HTTPS_PROXY": f"http://{proxy.login}@{via}", "NO_PROXY": ".test" if exempt else ""}
        entry = f'[{{url = "https://{name}", ca_bundle = "{authority}"}}]'
        async with world(tmp_path, extra=extra, upstreams=entry) as there:
            await there.rule("tls", name)
            far.add_image("team/app", "1", LAYER)
            status, _, _ = await there.get("tls/team/app/manifests/1")
            assert (status, bool(proxy.asked)) == ((503, False) if exempt else (200, True))  # no DNS knows far.test
            if not exempt:
                assert (await there.get(f"tls/team/app/blobs/{digest_of(LAYER)}"))[2] == LAYER
                assert set(proxy.asked) == {name}
                assert {each.authorization for each in far.asked} == {""}
            log = await asyncio.to_thread(there.server.data.with_name("data.log").read_text)
            assert "pr0xy-password" not in log


async def test_an_entrys_own_proxy_counts_before_the_environments(tmp_path: Path) -> None:
    proxy, other, far = ConnectProxy(), ConnectProxy(), FarRegistry()
    context, authority = await asyncio.to_thread(server_tls, tmp_path / "tls", "far.test")
    async with far.serving(context) as address, proxy.serving() as via, other.serving() as not_via:
        name = f"far.test:{address.rpartition(':')[2]}"
        entry = f'[{{url = "https://{name}", ca_bundle = "{authority}", proxy = "http://{via}"}}]'
        async with world(tmp_path, extra={"HTTPS_PROXY": f"http://{not_via}"}, upstreams=entry) as there:
            await there.rule("tls", name)
            far.add_image("team/app", "1", LAYER)
            assert (await there.get("tls/team/app/manifests/1"))[0] == 200
            assert (set(proxy.asked), other.asked) == ({name}, [])
