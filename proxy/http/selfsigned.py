"""A small CA and a certificate under it, for a first try of TLS (`--tls-self-signed`).

    ca.crt       the CA, which clients trust; constrained to the names of server.crt
    server.crt   the certificate and then the CA
    server.key   0600  its key

Both expire after a year. The CA signs once: its key is never written to disk and is discarded after signing, so a
reader of this directory cannot make another certificate that clients accept. A start replaces both within 30 days of
their end, for another host name, and if an earlier release stored the CA's key. Clients must then trust a new CA; the
log says so.

`app.processes` calls it, and imports it only then: nothing else needs X.509. Promises: `openssl verify -CAfile ca.crt
server.crt` succeeds, for the listening host, localhost, this machine's name and `more`. Source: RFC 5280 4.2.1.10.
"""

from __future__ import annotations

import datetime
import ipaddress
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from proxy import observe
from proxy.runtime.data_directory import replace_private

_DAYS = 365
_RENEW_DAYS = 30
_CLOCKS_DIFFER = datetime.timedelta(minutes=5)


def make_self_signed(directory: Path, host: str, more: Sequence[str] = ()) -> tuple[Path, Path, Path]:
    """Paths of ca.crt, server.crt and server.key in `directory`. Valid files are reused. `more` are DNS names beside
    the host's, such as `*.registry.example`."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca_crt, crt, key = directory / "ca.crt", directory / "server.crt", directory / "server.key"
    names = [*_names(host), *more]
    now = datetime.datetime.now(datetime.UTC)
    stale = _staleness(directory, names, now)
    if stale is None:
        return ca_crt, crt, key
    was_there = ca_crt.exists()
    authority, leaf, leaf_key = _made(names, now)
    # After a crash between two of these, the next start finds that they do not belong together and makes a new set.
    replace_private(key, _private_pem(leaf_key))
    replace_private(crt, leaf.public_bytes(Encoding.PEM) + authority.public_bytes(Encoding.PEM), 0o644)
    replace_private(ca_crt, authority.public_bytes(Encoding.PEM), 0o644)
    (directory / "ca.key").unlink(missing_ok=True)
    if was_there:
        observe.log.warning(
            "a new CA was made: clients have to trust it instead of the old one",
            why=stale,
            file=str(ca_crt),
            until=f"{leaf.not_valid_after_utc:%Y-%m-%d}",
        )
    return ca_crt, crt, key


def _staleness(directory: Path, names: Sequence[str], now: datetime.datetime) -> str | None:
    """Why the files cannot be used, as text for the log; None when they can."""
    ca_crt, crt, key = directory / "ca.crt", directory / "server.crt", directory / "server.key"
    if not (ca_crt.exists() and crt.exists() and key.exists()):
        return "a file of the old one is missing"
    if (directory / "ca.key").exists():
        return "the old one was made by a release that stored its key"
    try:
        authority = x509.load_pem_x509_certificate(ca_crt.read_bytes())
        leaf = x509.load_pem_x509_certificate(crt.read_bytes())
        leaf.verify_directly_issued_by(authority)
        authority.extensions.get_extension_for_class(x509.NameConstraints)
        held = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        own = load_pem_private_key(key.read_bytes(), None)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return "the old files do not belong together"
    if own.public_key() != leaf.public_key():
        return "the old files do not belong together"
    if leaf.not_valid_after_utc - now <= datetime.timedelta(days=_RENEW_DAYS):
        return f"the old one ends on {leaf.not_valid_after_utc:%Y-%m-%d}"
    lacking = [name for name in names if _general(name) not in held]
    return f"the old one is not for {lacking[0]}" if lacking else None


def _made(
    names: Sequence[str], now: datetime.datetime, signer: ec.EllipticCurvePrivateKey | None = None
) -> tuple[x509.Certificate, x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A CA constrained to `names`, a certificate for them, and the certificate's key. `signer` is the CA's key: a new
    one that is discarded, unless a test passes one."""
    signer, key = signer or ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    name = _name(f"Wharfage first-try CA {secrets.token_hex(4)}")
    authority = (
        _certificate(name, name, signer, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.NameConstraints([_subtree(name) for name in names], None), critical=True)
        .sign(signer, SHA256())
    )
    return authority, _leaf(names, authority, signer, key, now), key


def _leaf(
    names: Sequence[str],
    authority: x509.Certificate,
    signer: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
) -> x509.Certificate:
    issuer_key = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        _certificate(_name(names[0]), authority.subject, key, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key), critical=False)
        .sign(signer, SHA256())
    )


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now - _CLOCKS_DIFFER + datetime.timedelta(days=_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _names(host: str) -> list[str]:
    """The configured host, the names of the loopback interface, and this machine's own name."""
    configured = [] if host in ("", "0.0.0.0", "::") else [host]  # noqa: S104  # names to leave out, nothing is bound
    return list(dict.fromkeys([*configured, "localhost", "127.0.0.1", "::1", socket.gethostname()]))


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _subtree(name: str) -> x509.GeneralName:
    """The name constraint for a name of the certificate: an address alone, or a DNS name with its subdomains."""
    general = _general(name)
    if isinstance(general, x509.IPAddress):
        return x509.IPAddress(ipaddress.ip_network(name))
    return x509.DNSName(name.removeprefix("*."))


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
