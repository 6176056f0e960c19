"""The pure twin of `_speedups.native`: SHA-256 and SHA-512 through ctypes over libcrypto, whose context can be read.

hashlib exports no state. libcrypto's low-level SHA256_* and SHA512_* keep theirs in a public struct (openssl/sha.h),
the same since OpenSSL 0.9.8. Because they are deprecated, a library is used only after it has hashed a known message,
exported its state and resumed from it; without such a library the import fails and says what to install. ctypes
releases the GIL around each call. Same names and exported state as `native`. Imported by `_speedups/__init__` only.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from _speedups.state import SHA256, SHA512, Algorithm, StateParts, pack, unpack

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from _speedups import Hasher

__all__ = ["implementation", "kernel", "resume", "sha256", "sha512"]

implementation = "pure"


class _Sha256Context(ctypes.Structure):
    _fields_ = (
        ("h", ctypes.c_uint32 * 8),
        ("low", ctypes.c_uint32),  # bits hashed, low half
        ("high", ctypes.c_uint32),
        ("data", ctypes.c_uint8 * 64),
        ("num", ctypes.c_uint),  # bytes in `data`
        ("md_len", ctypes.c_uint),
    )


class _Sha512Context(ctypes.Structure):
    _fields_ = (
        ("h", ctypes.c_uint64 * 8),
        ("low", ctypes.c_uint64),
        ("high", ctypes.c_uint64),
        ("data", ctypes.c_uint8 * 128),
        ("num", ctypes.c_uint),
        ("md_len", ctypes.c_uint),
    )


_CONTEXTS: dict[int, tuple[type[ctypes.Structure], str, int]] = {
    SHA256.code: (_Sha256Context, "SHA256", 32),
    SHA512.code: (_Sha512Context, "SHA512", 64),
}


class LibcryptoSha2:
    """A hash in progress inside libcrypto, either algorithm."""

    __slots__ = ("_algorithm", "_context", "_digest_length", "_final", "_update")

    def __init__(self, library: ctypes.CDLL, parts: StateParts) -> None:
        structure, name, self._digest_length = _CONTEXTS[parts.algorithm.code]
        self._algorithm: Algorithm = parts.algorithm
        self._context = structure()
        self._update = library[f"{name}_Update"]
        self._final = library[f"{name}_Final"]
        if library[f"{name}_Init"](ctypes.byref(self._context)) != 1:
            raise OSError(f"{name}_Init failed")
        bits = parts.total * 8
        half = 8 * structure.low.size
        self._context.h[:] = parts.words
        self._context.low = bits & ((1 << half) - 1)
        self._context.high = bits >> half
        self._context.data[: len(parts.pending)] = parts.pending
        self._context.num = len(parts.pending)

    @property
    def name(self) -> str:
        return self._algorithm.name

    def update(self, data: Buffer, /) -> None:
        view = memoryview(data)
        if not view.nbytes:
            return
        where: object
        if isinstance(data, bytes):
            where = data  # ctypes passes the address of bytes without a copy
        elif view.readonly:
            where = view.tobytes()  # ctypes can't take the address of other read-only memory
        else:
            where = ctypes.byref(ctypes.c_uint8.from_buffer(view.cast("B")))
        if self._update(ctypes.byref(self._context), where, ctypes.c_size_t(view.nbytes)) != 1:
            raise OSError(f"{self.name} update failed")

    def digest(self) -> bytes:
        out = ctypes.create_string_buffer(self._digest_length)
        context = type(self._context).from_buffer_copy(self._context)
        if self._final(out, ctypes.byref(context)) != 1:
            raise OSError(f"{self.name} final failed")
        return out.raw

    def export(self) -> bytes:
        context = self._context
        half = 8 * type(context).low.size
        total = (context.high << half | context.low) // 8
        return pack(StateParts(self._algorithm, total, tuple(context.h), bytes(context.data[: context.num])))


def _candidates() -> Iterator[str]:
    """The libcrypto that Python itself runs on (found through `_hashlib`), then those a system may have."""
    try:
        import _hashlib
    except ImportError:  # a Python without OpenSSL
        pass
    else:
        if getattr(_hashlib, "__file__", None):
            yield _hashlib.__file__
    yield from ("libcrypto.so.3", "libcrypto.so.1.1")
    found = ctypes.util.find_library("crypto")
    if found:
        yield found


def _works(library: ctypes.CDLL) -> bool:
    """Whether the structs above are this library's: a known message, exported in its middle and resumed."""
    message = bytes(range(256)) * 3
    for algorithm in (SHA256, SHA512):
        first = LibcryptoSha2(library, algorithm.start)
        first.update(message[:333])
        second = LibcryptoSha2(library, unpack(first.export()))
        second.update(message[333:])
        if second.digest() != hashlib.new(algorithm.name, message).digest():
            return False
    return True


def load_libcrypto() -> ctypes.CDLL | None:
    """The first libcrypto with the low-level functions and the expected layout, or None."""
    for candidate in _candidates():
        try:
            library = ctypes.CDLL(candidate)
            if _works(library):
                return library
        except (OSError, AttributeError):  # not there, or built without the deprecated functions
            continue
    return None


def _require_libcrypto() -> ctypes.CDLL:
    """ImportError, with what to do, where there is none: a hash in plain Python does 1 MB/s, which serves nobody."""
    library = load_libcrypto()
    if library is None:
        raise ImportError(
            "no way to hash: _speedups.native is not in use, and no libcrypto (OpenSSL 1.1 or 3) offers SHA256_Init "
            "and SHA512_Init. Install a C compiler and Python's headers and install wharfage again, or install OpenSSL"
        )
    return library


_library = _require_libcrypto()
kernel = "libcrypto"


def sha256() -> Hasher:
    return LibcryptoSha2(_library, SHA256.start)


def sha512() -> Hasher:
    return LibcryptoSha2(_library, SHA512.start)


def resume(state: bytes) -> Hasher:
    """Go on from an exported state. ValueError when it is not one."""
    return LibcryptoSha2(_library, unpack(state))
