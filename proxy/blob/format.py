"""The format of a sealed object: one or more AWS Encryption SDK messages, one after the other, with nothing between.

A message, version 2, suite 0x0478 (AES-256-GCM, HKDF-SHA512, key commitment), framed; numbers are big endian:

    header body             1   version, 0x02
                            2   suite, 0x0478
                           32   message id, random: salt of both derived keys
                            2   length of the encryption context, then the context:
                                count (2), then key length (2), key, value length (2), value, sorted by key
                            2   count of encrypted data keys, then of each:
                                provider id, provider information, ciphertext, each after its length (2)
                            1   content type, 0x02: framed
                            4   frame length F
                           32   commitment: HKDF(data key, salt = message id, info = "COMMITKEY")
    header tag             16   GCM tag of nothing, AAD = header body, IV = 0, key = the derived key
    body                    n   regular frames of F bytes of plaintext, F + 32 stored
                            1   final frame of 0 to F bytes of plaintext, 40 more stored  (`_speedups/frames.py`)

Derived key = HKDF(data key, salt = message id, info = 0x0478 "DERIVEKEY"). The tag authenticates the whole header, and
a stored header is never rewritten: another tag under the same key would use its IV twice.

Ranges are arithmetic: plaintext offset p of a message is in frame p // F, stored at header + p // F × (F + 32).

A layer pushed in one stream is one message. One pushed in several requests is several messages, and the SDK, given all
of them, opens the first and says nothing about the rest. The loop that opens them all, with any reader of the format:

    while stored: length = message_length(stored); opened += sdk.decrypt(stored[:length]); stored = stored[length:]

Used by its package, `jobs.reseal` and `app.router`. Must not know stores, rows or where keys are stored.
Source: AWS Encryption SDK Developer Guide, "Message format reference".
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from _speedups import FINAL_OVERHEAD, FRAME_OVERHEAD
from proxy.model.records import EncryptedDataKey, Segment

FRAME_LENGTH = 256 * 1024
"""Of new objects: the smallest that costs no more CPU than larger ones (`bench/test_frames.py`), so that small ranges
decrypt least."""

FRAME_LENGTH_MAX = 1024 * 1024  # a frame is decrypted whole, in memory
HEADER_MAX = 4096  # ours are about 300 bytes, with AWS KMS about 600; a whole header is in memory and in a row
DATA_KEY_LENGTH = 32
MESSAGE_ID_LENGTH = 32
CONTEXT_ARN = "aws:ecr:arn"  # the only key of our encryption contexts, as in ECR's own grants for KMS

_VERSION = 2
_SUITE = 0x0478
_FRAMED = 2
_TAG = 16
_COMMITMENT = 32
_HEADER_IV = bytes(12)
_SUITES = {  # the other suites by name, for the error that refuses them
    0x0014: "AES-128-GCM without key derivation",
    0x0046: "AES-192-GCM without key derivation",
    0x0078: "AES-256-GCM without key derivation",
    0x0114: "AES-128-GCM without key commitment",
    0x0146: "AES-192-GCM without key commitment",
    0x0178: "AES-256-GCM without key commitment",
    0x0214: "AES-128-GCM with ECDSA",
    0x0346: "AES-192-GCM with ECDSA",
    0x0378: "AES-256-GCM with ECDSA",
    0x0578: "AES-256-GCM with key commitment and ECDSA",
}


class FormatError(ValueError):
    """The bytes are not a supported message; the text names what they are instead."""


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header, not yet authenticated: `open_header` does that. `length` is that of its bytes, tag included."""

    message_id: bytes
    context: dict[str, str]
    data_keys: tuple[EncryptedDataKey, ...]
    frame_length: int
    commitment: bytes
    length: int


@dataclass(frozen=True, slots=True)
class MessageKey:
    """Seals and opens the frames of one message: the derived key and the message id."""

    cipher: AESGCM
    message_id: bytes


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of the frames of a message, or of a segment that is not sealed.

    `regular` counts regular frames; the final one, of `final` bytes, follows them.
    """

    header: int  # bytes
    frame_length: int
    regular: int
    final: int
    frame_overhead: int = FRAME_OVERHEAD  # stored beyond its plaintext, by a regular frame
    final_overhead: int = FINAL_OVERHEAD

    @property
    def plain_length(self) -> int:
        return self.regular * self.frame_length + self.final

    @property
    def stored_length(self) -> int:
        return self.frame_at(self.regular) + self.final + self.final_overhead

    def frame_at(self, index: int) -> int:
        """The offset of the frame with that index (from 0), from the message's first byte."""
        return self.header + index * (self.frame_length + self.frame_overhead)

    def frames_of(self, start: int, stop: int) -> tuple[int, int]:
        """The frames (first, one past last) that hold the message's plaintext [start, stop), which is not empty.

        A full final frame has the index `regular` by the same division.
        """
        return start // self.frame_length, (stop - 1) // self.frame_length + 1


def layout_of(segment: Segment, frame_length: int) -> Layout:
    """The layout that matches a segment's lengths. FormatError if none does.

    A final frame may be full: other writers end a message of n × F bytes with n - 1 regular frames. The stored length
    tells the two apart.
    """
    body = segment.stored_length - len(segment.header) - FINAL_OVERHEAD
    regular, final = divmod(body, frame_length + FRAME_OVERHEAD)
    layout = Layout(len(segment.header), frame_length, regular, final)
    if body < 0 or final > frame_length or layout.plain_length != segment.plain_length:
        raise FormatError(f"{segment.stored_length} stored bytes can't hold {segment.plain_length} in frames")
    return layout


def stored_length(header_length: int, plain_length: int, frame_length: int) -> int:
    """The stored length of that much plaintext, as our writer makes it."""
    return Layout(header_length, frame_length, *divmod(plain_length, frame_length)).stored_length


def serialize_context(context: dict[str, str]) -> bytes:
    """An encryption context as it is authenticated, in headers and for wrapped data keys. No bytes if empty."""
    if not context:
        return b""
    pairs = sorted((key.encode(), value.encode()) for key, value in context.items())
    return struct.pack(">H", len(pairs)) + b"".join(_counted(key) + _counted(value) for key, value in pairs)


def context_of(sealed_for: str) -> dict[str, str]:
    """The encryption context of an object that was first sealed for the repository with that ARN."""
    return {CONTEXT_ARN: sealed_for}


def build_header(
    data_key: bytes, message_id: bytes, encrypted: EncryptedDataKey, sealed_for: str, frame_length: int
) -> tuple[bytes, MessageKey]:
    """A new message's header, tag included, and the key that seals its frames. `message_id` must be fresh, 32 bytes."""
    if len(message_id) != MESSAGE_ID_LENGTH or len(data_key) != DATA_KEY_LENGTH:
        raise ValueError("message id and data key have 32 bytes")
    if not 1 <= frame_length <= FRAME_LENGTH_MAX:
        raise ValueError(f"a frame length is 1 to {FRAME_LENGTH_MAX}")
    context = serialize_context(context_of(sealed_for))
    body = b"".join(
        (
            struct.pack(">BH", _VERSION, _SUITE),
            message_id,
            _counted(context),
            struct.pack(">H", 1),
            _counted(encrypted.provider_id.encode()),
            _counted(encrypted.provider_info),
            _counted(encrypted.ciphertext),
            struct.pack(">BI", _FRAMED, frame_length),
            _commitment(data_key, message_id),
        )
    )
    if len(body) + _TAG > HEADER_MAX:
        raise ValueError(f"a header of {len(body) + _TAG} bytes; at most {HEADER_MAX} are written")
    cipher = AESGCM(_derived(data_key, message_id))
    return body + cipher.encrypt(_HEADER_IV, b"", body), MessageKey(cipher, message_id)


def parse_header(stored: bytes) -> Header:
    """Parse the header at the start of `stored`, at most HEADER_MAX bytes. FormatError if it is not supported."""
    reader = _Fields(stored)
    version = reader.number(1)
    if version != _VERSION:
        raise FormatError(f"message version {version}; only version 2 is read")
    suite = reader.number(2)
    if suite != _SUITE:
        name = _SUITES.get(suite, "unknown")
        raise FormatError(f"algorithm suite 0x{suite:04x} ({name}); only 0x0478 is read")
    message_id = reader.take(MESSAGE_ID_LENGTH)
    context = _parse_context(reader.counted())
    data_keys = tuple(
        EncryptedDataKey(reader.text(), reader.counted(), reader.counted()) for _ in range(reader.number(2))
    )
    if not data_keys:
        raise FormatError("a header without a data key")
    content = reader.number(1)
    if content != _FRAMED:
        raise FormatError(
            f"content type {content} ({'not framed' if content == 1 else 'unknown'}); only 2, framed, is read"
        )
    frame_length = reader.number(4)
    if not 1 <= frame_length <= FRAME_LENGTH_MAX:
        raise FormatError(f"frame length {frame_length}; 1 to {FRAME_LENGTH_MAX} are read")
    commitment = reader.take(_COMMITMENT)
    reader.take(_TAG)
    return Header(message_id, context, data_keys, frame_length, commitment, reader.at)


def open_header(header: bytes, data_key: bytes, sealed_for: str, frame_length: int) -> MessageKey:
    """Authenticate a whole header with the unwrapped data key: commitment, tag, and that it is what the row says.

    FormatError when it is not.
    """
    parsed = parse_header(header)
    if parsed.length != len(header):
        raise FormatError(f"a header of {parsed.length} bytes in {len(header)}")
    if not hmac.compare_digest(parsed.commitment, _commitment(data_key, parsed.message_id)):
        raise FormatError("the header commits to another data key")
    cipher = AESGCM(_derived(data_key, parsed.message_id))
    try:
        cipher.decrypt(_HEADER_IV, header[-_TAG:], header[:-_TAG])
    except InvalidTag:
        raise FormatError("the header's tag does not authenticate") from None
    if parsed.context.get(CONTEXT_ARN) != sealed_for:
        raise FormatError(f"sealed for {parsed.context.get(CONTEXT_ARN)!r}, not for {sealed_for!r}")
    if parsed.frame_length != frame_length:
        raise FormatError(f"frames of {parsed.frame_length} bytes, not of {frame_length}")
    return MessageKey(cipher, parsed.message_id)


def message_length(stored: bytes) -> int:
    """The length of the whole message that `stored` begins with, from its frames' fields. FormatError when cut short.

    For recovery without rows, where messages follow each other; nothing is authenticated here.
    """
    header = parse_header(stored[:HEADER_MAX])
    at = header.length
    while stored[at : at + 4] != b"\xff\xff\xff\xff":
        at += header.frame_length + FRAME_OVERHEAD
        if at + FINAL_OVERHEAD > len(stored):
            raise FormatError("a message cut short")
    final = int.from_bytes(stored[at + 20 : at + 24], "big")
    if final > header.frame_length or at + final + FINAL_OVERHEAD > len(stored):
        raise FormatError("a final frame cut short, or longer than a frame")
    return at + final + FINAL_OVERHEAD


def _counted(value: bytes) -> bytes:
    return struct.pack(">H", len(value)) + value


def _derived(data_key: bytes, message_id: bytes) -> bytes:
    info = struct.pack(">H", _SUITE) + b"DERIVEKEY"
    return HKDF(algorithm=SHA512(), length=32, salt=message_id, info=info).derive(data_key)


def _commitment(data_key: bytes, message_id: bytes) -> bytes:
    return HKDF(algorithm=SHA512(), length=_COMMITMENT, salt=message_id, info=b"COMMITKEY").derive(data_key)


def _parse_context(serialized: bytes) -> dict[str, str]:
    if not serialized:
        return {}
    reader = _Fields(serialized)
    count = reader.number(2)
    context = {reader.text(): reader.text() for _ in range(count)}
    if reader.at != len(serialized) or len(context) != count:
        raise FormatError("an encryption context with bytes left over, or a key twice")
    return context


class _Fields:
    """Reads fields one after the other from at most HEADER_MAX bytes."""

    def __init__(self, source: bytes) -> None:
        self._source = source[:HEADER_MAX]
        self.at = 0

    def take(self, length: int) -> bytes:
        end = self.at + length
        if end > len(self._source):
            raise FormatError(f"a header cut short, or of more than {HEADER_MAX} bytes")
        taken = bytes(self._source[self.at : end])
        self.at = end
        return taken

    def number(self, length: int) -> int:
        return int.from_bytes(self.take(length), "big")

    def counted(self) -> bytes:
        return self.take(self.number(2))

    def text(self) -> str:
        try:
            return self.counted().decode()
        except UnicodeDecodeError:
            raise FormatError("text of a header that is not UTF-8") from None
