"""Files sealed under a passphrase: they come back, and nothing else does."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as some

from proxy.auth.passphrase import COST, SealError, open_files, seal_files

PHRASE = "correct horse battery"
CHEAP = 2  # scrypt's n, where its cost is not what is tested

files = some.dictionaries(some.text(max_size=40), some.binary(max_size=500), max_size=5)


@given(files=files, phrase=some.text(some.characters(codec="utf-8"), min_size=12, max_size=60))
def test_files_come_back_under_their_passphrase(files: dict[str, bytes], phrase: str) -> None:
    assert open_files(seal_files(files, phrase, cost=CHEAP), phrase) == files


@given(where=some.floats(0, 1, exclude_max=True), bit=some.integers(0, 7))
def test_a_changed_bit_is_never_opened_to_something_else(where: float, bit: int) -> None:
    """JSON has bytes that say nothing (its spaces); for all others there is one line."""
    whole = seal_files({"a": b"secret"}, PHRASE, cost=CHEAP)
    changed = bytearray(whole)
    changed[int(where * len(whole))] ^= 1 << bit
    try:
        found, line = open_files(bytes(changed), PHRASE), ""
    except SealError as error:
        found, line = {"a": b"secret"}, str(error)
    assert found == {"a": b"secret"}
    assert "\n" not in line


def test_a_wrong_passphrase_is_one_line() -> None:
    with pytest.raises(SealError, match=r"^the passphrase is wrong, or the sealed keys have been changed$"):
        open_files(seal_files({}, PHRASE, cost=CHEAP), PHRASE + "!")


def test_a_short_passphrase_seals_nothing() -> None:
    with pytest.raises(SealError, match="at least 12 characters"):
        seal_files({}, "elevenchars")


@pytest.mark.parametrize(
    ("member", "value", "words"),
    [
        ("format", "other", "no sealed keys of wharfage"),
        ("version", 2, "a later version"),
        ("kdf", "pbkdf2", "another kdf"),
        ("n", 2**24, "parameters"),
        ("n", 3, "parameters"),
        ("r", 2**20, "parameters"),
        ("p", 10**6, "parameters"),
        ("nonce", "", "a nonce of another length"),
        ("salt", 7, "no sealed keys"),
        ("sealed", "", "the passphrase is wrong"),
        ("more", "members", "the passphrase is wrong"),
    ],
)
def test_what_a_document_may_ask_for_is_bounded(member: str, value: object, words: str) -> None:
    document = json.loads(seal_files({}, PHRASE, cost=CHEAP)) | {member: value}
    with pytest.raises(SealError, match=words):
        open_files(json.dumps(document).encode(), PHRASE)


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b"{}", b"\xff", b"null"])
def test_anything_else_is_one_line(content: bytes) -> None:
    with pytest.raises(SealError, match="no sealed keys"):
        open_files(content, PHRASE)


def test_the_format_is_what_the_module_says() -> None:
    """Opened here by the words of its docstring, with other code, at the cost that is really used."""
    document = json.loads(seal_files({"keys/master.json": b"\x00key"}, PHRASE))
    assert document["n"] == COST
    salt, nonce, sealed = (base64.b64decode(document[name]) for name in ("salt", "nonce", "sealed"))
    assert (len(salt), len(nonce)) == (16, 12)
    del document["sealed"]
    key = hashlib.scrypt(PHRASE.encode(), salt=salt, n=COST, r=8, p=1, maxmem=2**28, dklen=32)
    bound = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    assert json.loads(AESGCM(key).decrypt(nonce, sealed, bound)) == {
        "files": {"keys/master.json": base64.b64encode(b"\x00key").decode()}
    }
