"""Loaded by every Python under `support.faketime`: its `time.sleep` works.

CPython sleeps until a moment of the monotonic clock. libfaketime 0.9.10 takes the wall clock's offset off that moment,
though it leaves the clock itself alone, and the system refuses what comes out: OSError. Waits for locks are counted
from now, and are right.
"""

from __future__ import annotations

import threading
import time
from typing import Any


def sleep(seconds: Any, /) -> None:
    threading.Event().wait(seconds)


time.sleep = sleep
