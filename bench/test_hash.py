"""How fast each way to hash runs here: `pytest bench/test_hash.py`. One round is 16 MiB in buffers of a frame's size.

`python -m pytest bench/test_hash.py --benchmark-columns=min,median,ops`; GB/s stands in each line's extra info.
"""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from isal import isal_zlib

from _speedups import pure
from proxy.blob.format import FRAME_LENGTH

native = pytest.importorskip("_speedups.native", reason="needs _speedups.native", exc_type=ModuleNotFoundError)
FRAMES = 64

WAYS: dict[str, Callable[[], Any]] = {
    "native-sha256": native.sha256,
    "native-portable-sha256": lambda: native.sha256(portable=True),
    "pure-sha256": pure.sha256,
    "hashlib-sha256": hashlib.sha256,
    "native-sha512": native.sha512,
    "pure-sha512": pure.sha512,
    "hashlib-sha512": hashlib.sha512,
}


@pytest.mark.parametrize("way", list(WAYS))
def test_hashing_frames(benchmark: Any, way: str) -> None:
    frame = os.urandom(FRAME_LENGTH)

    def hash_frames() -> None:
        hasher = WAYS[way]()
        for _ in range(FRAMES):
            hasher.update(frame)
        hasher.digest()

    benchmark.pedantic(hash_frames, rounds=10, warmup_rounds=1)
    benchmark.extra_info["GB/s"] = round(FRAMES * FRAME_LENGTH / benchmark.stats.stats.min / 1e9, 2)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_that_hash_at_once(benchmark: Any, threads: int) -> None:
    """They meet, and one hashes for two, where the CPU has it (`native.together_gain`): GB for each CPU-second."""
    frames = [os.urandom(FRAME_LENGTH) for _ in range(threads)]
    spent: list[float] = []

    def hash_frames(frame: bytes) -> None:
        hasher = native.sha256()
        for _ in range(FRAMES):
            hasher.update(frame)

    def all_at_once() -> None:
        began = time.process_time()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(hash_frames, frames))
        spent.append(time.process_time() - began)

    benchmark.pedantic(all_at_once, rounds=10, warmup_rounds=1)
    benchmark.extra_info["GB per CPU-s"] = round(threads * FRAMES * FRAME_LENGTH / min(spent) / 1e9, 2)
    benchmark.extra_info["two to one after the other"] = round(native.together_gain(), 2)


@pytest.mark.parametrize("way", [isal_zlib.crc32, zlib.crc32], ids=["isal", "zlib"])
def test_crc32_of_frames(benchmark: Any, way: Callable[[bytes], int]) -> None:
    """What each byte of an S3 push is summed by, beside what the standard library has."""
    frame = os.urandom(FRAME_LENGTH)
    benchmark.pedantic(lambda: [way(frame) for _ in range(FRAMES)], rounds=10, warmup_rounds=1)
    benchmark.extra_info["GB/s"] = round(FRAMES * FRAME_LENGTH / benchmark.stats.stats.min / 1e9, 2)


@pytest.mark.parametrize("twin", ["native", "pure"])
def test_exporting_and_resuming_a_state(benchmark: Any, twin: str) -> None:
    """What each request of a chunked upload pays: microseconds."""
    module: Any = native if twin == "native" else pure
    hasher = module.sha256()
    hasher.update(b"x" * 100)
    benchmark(lambda: module.resume(hasher.export()))
