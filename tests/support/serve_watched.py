"""`wharfage` with the watch of `support.watch` put on before its commands load: workers forked later inherit it.

The request that made a blocking call fails, and the log names the call.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]  # run as a script: `support` is in tests

from support.watch import watch  # noqa: E402 - once the path above is set


def main() -> None:
    watch().activate()
    from proxy.cli.main import main as wharfage  # after the watch, on purpose

    sys.argv[0] = "wharfage"
    wharfage()


if __name__ == "__main__":
    main()
