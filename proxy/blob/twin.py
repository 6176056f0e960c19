"""Which implementation of the bytes runs here, for start-up to say so: the room's face of `_speedups`' own facts."""

from _speedups import implementation, measure, reason

__all__ = ["implementation", "measure", "reason"]
