"""A plugin of pytest-benchmark (`-p benchmachine`) for baselines that are kept: which CPU, not whose machine."""

from __future__ import annotations

from typing import Any

KEPT = ("brand_raw", "arch", "count")  # of the CPU


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    machine_info["node"] = ""
    machine_info["cpu"] = {name: machine_info["cpu"].get(name) for name in KEPT}
