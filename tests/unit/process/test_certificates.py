"""TLS: the small CA verifies with openssl, is kept, and certificates are read again when they change."""

from __future__ import annotations

import asyncio
import os
import ssl
import stat
import subprocess
from pathlib import Path

import pytest

from harness.listening import listening
from proxy.model.hosts import Hosts
from proxy.process.selfsigned import make_self_signed
from proxy.process.tls import reload_on_change, server_context


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "registry.example", "::1", "0.0.0.0"])
def test_openssl_verifies_the_chain_for_the_host(tmp_path: Path, host: str) -> None:
    """Strict X.509 checking accepts certificate, CA and name."""
    ca, crt, _ = make_self_signed(tmp_path, host)
    name = "localhost" if host == "0.0.0.0" else host
    flag = "-verify_ip" if name[0] in "1:" else "-verify_hostname"
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", flag, name, "-CAfile", str(ca), str(crt)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_keys_are_private_and_everything_is_kept_on_the_next_start(tmp_path: Path) -> None:
    """A CA that clients were told to trust stays the same."""
    first = [path.read_bytes() for path in make_self_signed(tmp_path, "127.0.0.1")]
    assert first == [path.read_bytes() for path in make_self_signed(tmp_path, "127.0.0.1")]
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ca.key", "server.key")} == {0o600}


@pytest.mark.needs("openssl")
def test_a_suffix_gets_its_names_in_the_certificate(tmp_path: Path) -> None:
    """Every account's registry is under the wildcard, and a certificate from before the suffix is made anew."""
    make_self_signed(tmp_path, "127.0.0.1")
    names = Hosts("123456789012", "us-east-1", "registry.example").certified()
    ca, crt, _ = make_self_signed(tmp_path, "127.0.0.1", names)
    asked = [*(name.replace("*", "210987654321") for name in names), "localhost"]
    for name in asked:
        command = ["openssl", "verify", "-x509_strict", "-verify_hostname", name, "-CAfile", str(ca), str(crt)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_another_host_gets_a_new_certificate_under_the_same_ca(tmp_path: Path) -> None:
    """Only the leaf is made anew."""
    ca, crt, _ = make_self_signed(tmp_path, "127.0.0.1")
    before = ca.read_bytes(), crt.read_bytes()
    make_self_signed(tmp_path, "registry.example")
    assert ca.read_bytes() == before[0]
    assert crt.read_bytes() != before[1]


async def test_a_changed_pair_is_taken_and_a_broken_one_is_not(tmp_path: Path) -> None:
    """New connections see the new certificate without a restart; half a pair changes nothing."""
    one = await asyncio.to_thread(make_self_signed, tmp_path / "one", "localhost")
    two = await asyncio.to_thread(make_self_signed, tmp_path / "two", "localhost")
    crt, key = tmp_path / "crt", tmp_path / "key"
    await asyncio.to_thread(put, one, crt, key)
    context = await asyncio.to_thread(server_context, crt, key)
    reloading = asyncio.create_task(reload_on_change(context, crt, key, seconds=0.02))
    try:
        async with listening(closes, ssl=context) as port, asyncio.timeout(10):
            first = await peer_certificate(port)
            await asyncio.to_thread(os.replace, copy(two[1]), crt)  # without its key
            await asyncio.sleep(0.2)
            assert await peer_certificate(port) == first
            await asyncio.to_thread(os.replace, copy(two[2]), key)
            while await peer_certificate(port) == first:  # noqa: ASYNC110 - it shows only to who connects
                await asyncio.sleep(0.02)
    finally:
        reloading.cancel()


async def closes(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def put(made: tuple[Path, Path, Path], crt: Path, key: Path) -> None:
    os.replace(copy(made[1]), crt)
    os.replace(copy(made[2]), key)


def copy(path: Path) -> Path:
    beside = path.with_suffix(".copy")
    beside.write_bytes(path.read_bytes())
    return beside


async def peer_certificate(port: int) -> bytes:
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
    found = writer.get_extra_info("ssl_object").getpeercert(True)
    writer.close()
    assert isinstance(found, bytes)
    return found
