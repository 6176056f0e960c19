"""A few secret files, sealed under a passphrase: what a backup holds of keys. Format 1, a JSON object:

    {"format": "wharfage sealed files", "version": 1,
     "kdf": "scrypt", "n": 131072, "r": 8, "p": 1, "salt": <base64, 16 bytes>,
     "cipher": "AES-256-GCM", "nonce": <base64, 12 bytes>, "sealed": <base64>}

    key      scrypt(passphrase in UTF-8, salt, n, r, p), 32 bytes
    sealed   AES-256-GCM under that key, its tag (16) at the end; AAD = all other members as JSON, names sorted, without
             spaces; plaintext = {"files": {<name>: <base64 of its bytes>}} as JSON

Promises: salt and nonce are fresh each time; a wrong passphrase, a changed byte and a parameter that would take too
much memory are `SealError`, one line. Must not know what the files are for.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from proxy.model.errors import OperatorError

FORMAT, VERSION = "wharfage sealed files", 1
SHORTEST = 12  # characters of a passphrase: a backup that is found can be attacked offline
COST = 2**17  # scrypt's n: with r = 8 128 MiB and 0.3 s for each guess
_R, _P = 8, 1
_MEMORY_MAX = 2**30  # bytes that a document may ask scrypt to take (128 · n · r)


class SealError(OperatorError):
    """The document cannot be opened, or the passphrase cannot be used; the text gives the reason."""


def check_passphrase(passphrase: str) -> str:
    """The passphrase, if it is acceptable. SealError."""
    if len(passphrase) < SHORTEST:
        raise SealError(f"a passphrase has at least {SHORTEST} characters")
    return passphrase


def seal_files(files: Mapping[str, bytes], passphrase: str, *, cost: int = COST) -> bytes:
    """Seal files into a document. Takes 0.3 s and 128 MiB at the usual `cost`: not for an event loop."""
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    document: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "kdf": "scrypt",
        "n": cost,
        "r": _R,
        "p": _P,
        "salt": base64.b64encode(salt).decode(),
        "cipher": "AES-256-GCM",
        "nonce": base64.b64encode(nonce).decode(),
    }
    plain = json.dumps({"files": {name: base64.b64encode(content).decode() for name, content in files.items()}})
    key = _derive(check_passphrase(passphrase), salt, cost, _R, _P)
    sealed = AESGCM(key).encrypt(nonce, plain.encode(), _bound(document))
    return (json.dumps(document | {"sealed": base64.b64encode(sealed).decode()}, indent=1) + "\n").encode()


def open_files(content: bytes, passphrase: str) -> dict[str, bytes]:
    """The files of a document. SealError."""
    try:
        document = json.loads(content)
        if document["format"] != FORMAT:
            raise ValueError(f"format {str(document['format'])[:40]!r}")
        if document["version"] != VERSION:
            raise SealError(f"sealed by a later version of wharfage (format {str(document['version'])[:10]})")
        if (document["kdf"], document["cipher"]) != ("scrypt", "AES-256-GCM"):
            raise ValueError("another kdf or cipher")
        n, r, p = (int(document[name]) for name in ("n", "r", "p"))
        if not (n > 1 and n & (n - 1) == 0 and 1 <= r <= 64 and 1 <= p <= 4 and 128 * n * r <= _MEMORY_MAX):
            raise ValueError("parameters that no version of wharfage writes")
        salt, nonce, sealed = (
            base64.b64decode(document.pop(name), validate=True) for name in ("salt", "nonce", "sealed")
        )
        document |= {"salt": base64.b64encode(salt).decode(), "nonce": base64.b64encode(nonce).decode()}
        if len(nonce) != 12:
            raise ValueError("a nonce of another length")
        plain = AESGCM(_derive(passphrase, salt, n, r, p)).decrypt(nonce, sealed, _bound(document))
        files = json.loads(plain)["files"]
        return {str(name): base64.b64decode(body, validate=True) for name, body in files.items()}
    except InvalidTag:
        raise SealError("the passphrase is wrong, or the sealed keys have been changed") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SealError(f"no sealed keys of wharfage: {str(error)[:100]}") from None


def _derive(passphrase: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=n, r=r, p=p).derive(passphrase.encode())


def _bound(document: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(document), sort_keys=True, separators=(",", ":")).encode()
