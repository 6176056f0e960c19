"""What the composition of a store works out from the settings."""

from __future__ import annotations

import os

import pytest

from proxy.app.stores import part_buffer_bytes
from proxy.config import loader

S3 = {"storage.backend": "s3", "storage.bucket": "layers"}
MIB = 2**20


@pytest.mark.parametrize(
    ("workers", "buffers_mib", "expected"),
    [(1, 64, 64), (2, 64, 32), (3, 64, 21), (4, 64, 16), (16, 64, 16), (2, 24, 16)],
)
def test_a_worker_has_an_even_share_of_the_part_buffers_and_two_parts_at_least(
    workers: int, buffers_mib: int, expected: int
) -> None:
    config = loader.load(flags=S3 | {"server.workers": workers, "storage.buffers_mib": buffers_mib})
    assert part_buffer_bytes(config) == expected * MIB


def test_without_a_number_of_workers_there_is_one_a_core() -> None:
    config = loader.load(flags=S3 | {"storage.buffers_mib": 4096})
    assert part_buffer_bytes(config) == 4096 // len(os.sched_getaffinity(0)) * MIB
