"""A small CA and a certificate under it, for a first try of TLS.

    ca.crt       the CA: what clients are told to trust; 10 years
    ca.key       0600  its key
    server.crt   the certificate and then the CA; 397 days, made anew 30 days before its end or for another host
    server.key   0600  its key

Promises: `openssl verify -CAfile ca.crt server.crt` holds, for the listening host, localhost, this machine's name and
what else was asked for; the CA is made once, so that it stays trusted. Loaded only when asked for: nothing else needs
X.509.
"""

from __future__ import annotations

import datetime
import ipaddress
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from proxy.process.datadir import replace_private

_CA_DAYS = 3650
_LEAF_DAYS = 397  # what clients accept at most from a public CA, and a good habit for ours
_RENEW_DAYS = 30


def make_self_signed(directory: Path, host: str, more: Sequence[str] = ()) -> tuple[Path, Path, Path]:
    """(ca.crt, server.crt, server.key) under `directory`; what is there and still good is kept. `more` are DNS names
    besides the host's, as `*.registry.example`."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca_crt, ca_key = directory / "ca.crt", directory / "ca.key"
    crt, key = directory / "server.crt", directory / "server.key"
    names = [*_names(host), *more]
    now = datetime.datetime.now(datetime.UTC)
    if not (ca_crt.exists() and ca_key.exists()):
        signer = ec.generate_private_key(ec.SECP256R1())
        replace_private(ca_key, _private_pem(signer))
        replace_private(ca_crt, _authority(signer, now).public_bytes(Encoding.PEM), 0o644)
    authority = x509.load_pem_x509_certificate(ca_crt.read_bytes())
    if not _is_good(crt, key, names, authority, now):
        found = load_pem_private_key(ca_key.read_bytes(), None)
        if not isinstance(found, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{ca_key}: is not the key that was made here; remove {directory} to begin anew")
        leaf_key = ec.generate_private_key(ec.SECP256R1())
        leaf = _leaf(leaf_key, found, authority, names, now)
        replace_private(key, _private_pem(leaf_key))
        replace_private(crt, leaf.public_bytes(Encoding.PEM) + ca_crt.read_bytes(), 0o644)
    return ca_crt, crt, key


def _authority(key: ec.EllipticCurvePrivateKey, now: datetime.datetime) -> x509.Certificate:
    name = _name(f"Wharfage first-try CA {secrets.token_hex(4)}")
    return (
        _certificate(name, name, key, now, _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, SHA256())
    )


def _leaf(
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    names: Sequence[str],
    now: datetime.datetime,
) -> x509.Certificate:
    issuer_key = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        _certificate(_name(names[0]), authority.subject, key, now, _LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key),
            critical=False,
        )
        .sign(signer, SHA256())
    )


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _is_good(crt: Path, key: Path, wanted: Sequence[str], authority: x509.Certificate, now: datetime.datetime) -> bool:
    if not (crt.exists() and key.exists()):
        return False
    leaf = x509.load_pem_x509_certificate(crt.read_bytes())
    held = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (
        leaf.issuer == authority.subject
        and leaf.not_valid_after_utc - now > datetime.timedelta(days=_RENEW_DAYS)
        and all(_general(name) in held for name in wanted)
    )


def _names(host: str) -> list[str]:
    """The host that was asked for, what a loopback client says, and this machine's own name."""
    asked = [] if host in ("", "0.0.0.0", "::") else [host]  # noqa: S104  # names to leave out, nothing is bound
    return list(dict.fromkeys([*asked, "localhost", "127.0.0.1", "::1", socket.gethostname()]))


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, common[:64])])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
