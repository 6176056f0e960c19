# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""SHA-256 and SHA-512 in C whose state can be exported and resumed; the GIL is released while they run.

The compiled twin of `_speedups.pure`: same names, same exported state (drawn in `_speedups/state.py`), same tests.
SHA-256 uses the CPU's own instructions where it has them; `sha256(portable=True)` forces the path without, for tests.
A hasher belongs to one caller at a time: a second thread inside it is refused with RuntimeError, never a wrong digest.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from _speedups.state import SHA256, SHA512, StateParts, pack, unpack

cdef extern from "sha2.h" nogil:
    ctypedef void (*sha256_blocks_fn)(uint32_t *state, const uint8_t *data, size_t blocks)
    void sha256_blocks_portable(uint32_t *state, const uint8_t *data, size_t blocks)
    void sha512_blocks_portable(uint64_t *state, const uint8_t *data, size_t blocks)
    sha256_blocks_fn sha256_blocks_accelerated()
    const char *sha256_accelerated_name()

cdef extern from "together.h" nogil:
    double sha256_gain()
    uint64_t sha256_meetings()
    int sha256_is_crowded()
    void sha256_set_waiting(int always, int64_t wait)
    void sha256_together(uint32_t *state, const uint8_t *data, size_t blocks)

cdef sha256_blocks_fn _accelerated = sha256_blocks_accelerated()

implementation = "native"
kernel = (<bytes>sha256_accelerated_name()).decode() if _accelerated != NULL else "portable"

# Below this, giving the GIL away costs more than the hashing does (2 KiB hash in about 1 µs).
cdef enum:
    GIL_BYTES = 2048
    TOGETHER_BYTES = 65536  # at once, from which on it pays to look whether another thread hashes
    TOGETHER_AFTER = 2097152  # bytes of a message: whose whole is short is through before anybody meets it


cdef class Sha256:
    cdef uint32_t words[8]
    cdef uint8_t pending[64]
    cdef uint64_t total
    cdef sha256_blocks_fn blocks
    cdef bint busy

    name = "sha256"

    def __init__(self):
        raise TypeError("sha256() and resume() make these")

    def update(self, data) -> None:
        cdef Py_buffer view
        if self.busy:
            raise RuntimeError("a hasher belongs to one thread at a time")
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        self.busy = True
        try:
            if view.len < GIL_BYTES:
                self._feed(<const uint8_t *>view.buf, view.len)
            else:
                with nogil:
                    self._feed(<const uint8_t *>view.buf, view.len)
        finally:
            self.busy = False
            PyBuffer_Release(&view)

    cdef void _feed(self, const uint8_t *data, size_t length) noexcept nogil:
        cdef size_t held = self.total & 63
        cdef size_t part
        self.total += length
        if held:
            part = min(64 - held, length)
            memcpy(self.pending + held, data, part)
            data += part
            length -= part
            if held + part < 64:
                return
            self.blocks(self.words, self.pending, 1)
        if length >= 64:
            if length >= TOGETHER_BYTES and self.total >= TOGETHER_AFTER and self.blocks == _accelerated:
                sha256_together(self.words, data, length >> 6)
            else:
                self.blocks(self.words, data, length >> 6)
            data += length & ~(<size_t>63)
            length &= 63
        if length:
            memcpy(self.pending, data, length)

    def digest(self) -> bytes:
        cdef uint32_t words[8]
        cdef uint8_t tail[128]
        cdef size_t held = self.total & 63
        cdef size_t length = 64 if held < 56 else 128
        cdef uint64_t bits = self.total << 3
        cdef int i
        if self.busy:
            raise RuntimeError("a hasher belongs to one thread at a time")
        memcpy(words, self.words, sizeof(words))
        memset(tail, 0, sizeof(tail))
        memcpy(tail, self.pending, held)
        tail[held] = 0x80
        for i in range(8):
            tail[length - 1 - i] = <uint8_t>(bits >> (8 * i))
        self.blocks(words, tail, length >> 6)
        for i in range(32):
            tail[i] = <uint8_t>(words[i >> 2] >> (24 - 8 * (i & 3)))
        return PyBytes_FromStringAndSize(<char *>tail, 32)

    def export(self) -> bytes:
        if self.busy:
            raise RuntimeError("a hasher belongs to one thread at a time")
        return pack(StateParts(
            SHA256, self.total, tuple([self.words[i] for i in range(8)]), (<bytes>self.pending[:self.total & 63])
        ))


cdef class Sha512:
    cdef uint64_t words[8]
    cdef uint8_t pending[128]
    cdef uint64_t total
    cdef bint busy

    name = "sha512"

    def __init__(self):
        raise TypeError("sha512() and resume() make these")

    def update(self, data) -> None:
        cdef Py_buffer view
        if self.busy:
            raise RuntimeError("a hasher belongs to one thread at a time")
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        self.busy = True
        try:
            if view.len < GIL_BYTES:
                self._feed(<const uint8_t *>view.buf, view.len)
            else:
                with nogil:
                    self._feed(<const uint8_t *>view.buf, view.len)
        finally:
            self.busy = False
            PyBuffer_Release(&view)

    cdef void _feed(self, const uint8_t *data, size_t length) noexcept nogil:
        cdef size_t held = self.total & 127
        cdef size_t part
        self.total += length
        if held:
            part = min(128 - held, length)
            memcpy(self.pending + held, data, part)
            data += part
            length -= part
            if held + part < 128:
                return
            sha512_blocks_portable(self.words, self.pending, 1)
        if length >= 128:
            sha512_blocks_portable(self.words, data, length >> 7)
            data += length & ~(<size_t>127)
            length &= 127
        if length:
            memcpy(self.pending, data, length)

    def digest(self) -> bytes:
        cdef uint64_t words[8]
        cdef uint8_t tail[256]
        cdef size_t held = self.total & 127
        cdef size_t length = 128 if held < 112 else 256
        cdef int i
        if self.busy:
            raise RuntimeError("a hasher belongs to one thread at a time")
        memcpy(words, self.words, sizeof(words))
        memset(tail, 0, sizeof(tail))
        memcpy(tail, self.pending, held)
        tail[held] = 0x80
        # The length field is 128 bits; a 64-bit count of bytes fills its low 67.
        tail[length - 9] = <uint8_t>(self.total >> 61)
        for i in range(8):
            tail[length - 1 - i] = <uint8_t>((self.total << 3) >> (8 * i))
        sha512_blocks_portable(words, tail, length >> 7)
        for i in range(64):
            tail[i] = <uint8_t>(words[i >> 3] >> (56 - 8 * (i & 7)))
        return PyBytes_FromStringAndSize(<char *>tail, 64)

    def export(self) -> bytes:
        if self.busy:
            raise RuntimeError("a hasher belongs to one thread at a time")
        return pack(StateParts(
            SHA512, self.total, tuple([self.words[i] for i in range(8)]), (<bytes>self.pending[:self.total & 127])
        ))


cdef Sha256 _sha256(parts, bint portable):
    cdef Sha256 hasher = Sha256.__new__(Sha256)
    cdef const uint8_t[:] pending = parts.pending
    cdef int i
    hasher.blocks = sha256_blocks_portable if portable or _accelerated == NULL else _accelerated
    hasher.total = parts.total
    for i in range(8):
        hasher.words[i] = parts.words[i]
    for i in range(len(parts.pending)):
        hasher.pending[i] = pending[i]
    return hasher


cdef Sha512 _sha512(parts):
    cdef Sha512 hasher = Sha512.__new__(Sha512)
    cdef const uint8_t[:] pending = parts.pending
    cdef int i
    hasher.total = parts.total
    for i in range(8):
        hasher.words[i] = parts.words[i]
    for i in range(len(parts.pending)):
        hasher.pending[i] = pending[i]
    return hasher


def sha256(*, bint portable=False) -> Sha256:
    return _sha256(SHA256.start, portable)


def sha512() -> Sha512:
    return _sha512(SHA512.start)


def resume(state, *, bint portable=False):
    """Go on from an exported state. ValueError when it is not one."""
    parts = unpack(state)
    return _sha256(parts, portable) if parts.algorithm is SHA256 else _sha512(parts)


def together_gain() -> float:
    """How many times the bytes two threads hash that meet, to one after the other; 0.0 where they never do."""
    return sha256_gain()


def meetings() -> int:
    """How often two threads hashed together since the process began."""
    return sha256_meetings()


def crowded() -> bool:
    """Whether a thread that hashes lost its core to others a moment ago: then threads wait longer for each other."""
    return bool(sha256_is_crowded())


def set_waiting(bint always, double seconds=-1.0) -> None:
    """For tests: whether a thread that hashes waits for another one without having seen any, and for how long at most;
    less than 0 is what it does by itself."""
    sha256_set_waiting(always, <int64_t>(seconds * 1e9))
