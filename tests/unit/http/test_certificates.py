"""TLS: the small CA verifies with openssl, for its own names alone, and is kept for a year at most; certificates are
read again when they change."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import ssl
import stat
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from proxy.http import selfsigned
from proxy.http.selfsigned import make_self_signed
from proxy.http.tls import reload_on_change, server_context
from proxy.model.hosts import Hosts
from support.listening import listening


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
    assert stat.S_IMODE((tmp_path / "server.key").stat().st_mode) == 0o600


@pytest.mark.needs("openssl")
@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("bank.example",), "permitted subtree violation"),
        (("registry.example.evil.example",), "permitted subtree violation"),
        (("10.0.0.5",), "permitted subtree violation"),
        (("127.0.0.2",), "permitted subtree violation"),
        (("registry.example", "127.0.0.1"), "OK"),
    ],
)
def test_the_ca_vouches_for_no_other_names(tmp_path: Path, names: tuple[str, ...], told: str) -> None:
    """Even if its key had been seen while it signed: a certificate for a bank under it is none."""
    signer, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    authority, _, _ = selfsigned._made(["registry.example", "localhost", "127.0.0.1", "::1"], now, signer)
    forged = selfsigned._leaf(names, authority, signer, key, now)
    for file, certificate in (("ca.crt", authority), ("forged.crt", forged)):
        (tmp_path / file).write_bytes(certificate.public_bytes(Encoding.PEM))
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(tmp_path / "ca.crt"), str(tmp_path / "forged.crt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told in done.stdout + done.stderr


def test_the_ca_is_constrained_critically_to_the_certificates_names(tmp_path: Path) -> None:
    names = Hosts("123456789012", "us-east-1", "registry.example").certified()
    authority, leaf = loaded(tmp_path, "registry.internal", names)
    found = authority.extensions.get_extension_for_class(x509.NameConstraints)
    assert found.critical
    assert found.value.excluded_subtrees is None
    held = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    permitted = [str(each.value) for each in found.value.permitted_subtrees or ()]
    assert permitted == [_constraint(str(each.value)) for each in held]


def _constraint(name: str) -> str:
    try:
        return str(ipaddress.ip_network(name))
    except ValueError:
        return name.removeprefix("*.")


def test_neither_lasts_for_more_than_a_year_and_the_cas_key_is_nowhere(tmp_path: Path) -> None:
    for certificate in loaded(tmp_path, "127.0.0.1"):
        assert certificate.not_valid_after_utc - certificate.not_valid_before_utc <= datetime.timedelta(days=365)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca.crt", "server.crt", "server.key"]
    authority = x509.load_pem_x509_certificate((tmp_path / "ca.crt").read_bytes())
    own = load_pem_private_key((tmp_path / "server.key").read_bytes(), None)
    assert own.public_key() != authority.public_key()


def loaded(folder: Path, host: str, more: Sequence[str] = ()) -> tuple[x509.Certificate, x509.Certificate]:
    ca, crt, _ = make_self_signed(folder, host, more)
    return x509.load_pem_x509_certificate(ca.read_bytes()), x509.load_pem_x509_certificate(crt.read_bytes())


def _expire(folder: Path) -> None:
    """What a start eleven months later finds."""
    old = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=340)
    _rewrite(folder, *selfsigned._made(selfsigned._names("127.0.0.1"), old))


def _rewrite(
    folder: Path, authority: x509.Certificate, leaf: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    (folder / "ca.crt").write_bytes(authority.public_bytes(Encoding.PEM))
    (folder / "server.crt").write_bytes(leaf.public_bytes(Encoding.PEM))
    (folder / "server.key").write_bytes(selfsigned._private_pem(key))


def _keep_its_key(folder: Path) -> None:
    """As a release before this one did, whose CA was for all names."""
    (folder / "ca.key").write_bytes(b"the CA's")


def _mix(folder: Path) -> None:
    """Broken off between two files."""
    ca, _, _ = make_self_signed(folder / "other", "127.0.0.1")
    os.replace(ca, folder / "ca.crt")


def _spoil(folder: Path) -> None:
    (folder / "server.crt").write_text("not a certificate")


def _lose(folder: Path) -> None:
    (folder / "server.key").unlink()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_expire, "the old one ends on"),
        (_keep_its_key, "a release that stored its key"),
        (_mix, "do not belong together"),
        (_spoil, "do not belong together"),
        (_lose, "a file of the old one is missing"),
    ],
)
def test_what_is_not_good_any_more_is_made_anew_with_a_ca_and_the_log_says_so(
    tmp_path: Path, change: Callable[[Path], None], why: str
) -> None:
    """A start is when it is looked at: clients have to trust the new CA, and the reason is told."""
    before = [path.read_bytes() for path in make_self_signed(tmp_path, "127.0.0.1")]
    change(tmp_path)
    with structlog.testing.capture_logs() as logged:
        after = [path.read_bytes() for path in make_self_signed(tmp_path, "127.0.0.1")]
    assert not set(before) & set(after)
    assert not (tmp_path / "ca.key").exists()
    [line] = logged
    assert (line["log_level"], why in line["why"]) == ("warning", True)
    with structlog.testing.capture_logs() as logged:
        assert after == [path.read_bytes() for path in make_self_signed(tmp_path, "127.0.0.1")]
    assert logged == []


def test_a_first_one_warns_of_nothing(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logged:
        make_self_signed(tmp_path, "127.0.0.1")
    assert logged == []


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


def test_another_host_gets_a_new_ca(tmp_path: Path) -> None:
    """The old one may not vouch for it, and nobody can sign under it any more."""
    ca, crt, _ = make_self_signed(tmp_path, "127.0.0.1")
    before = ca.read_bytes(), crt.read_bytes()
    with structlog.testing.capture_logs() as logged:
        make_self_signed(tmp_path, "registry.example")
    assert ca.read_bytes() != before[0]
    assert crt.read_bytes() != before[1]
    assert logged[0]["why"] == "the old one is not for registry.example"


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


async def test_a_worker_that_starts_after_the_change_shows_the_new_pair(tmp_path: Path) -> None:
    """Its context is that of its server's start, however long ago that was."""
    one = await asyncio.to_thread(make_self_signed, tmp_path / "one", "localhost")
    two = await asyncio.to_thread(make_self_signed, tmp_path / "two", "localhost")
    context = await asyncio.to_thread(server_context, one[1], one[2])
    wanted = ssl.PEM_cert_to_DER_cert((await asyncio.to_thread(two[1].read_text)).partition("-----END")[0] + _END)
    reloading = asyncio.create_task(reload_on_change(context, two[1], two[2], seconds=60))
    try:
        async with listening(closes, ssl=context) as port, asyncio.timeout(10):
            while await peer_certificate(port) != wanted:  # noqa: ASYNC110 - it shows only to who connects
                await asyncio.sleep(0.02)
    finally:
        reloading.cancel()


_END = "-----END CERTIFICATE-----\n"


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
