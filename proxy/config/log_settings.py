"""`[log]`: what is logged, and in which form. Read by `observe`."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.config.setting import one_of, setting


@dataclass(frozen=True, slots=True)
class LogSettings:
    form: str = setting("auto", "json, console, or auto: console on a terminal", one_of("auto", "json", "console"))
    level: str = setting(
        "info", "the least important line that is written", one_of("debug", "info", "warning", "error")
    )
