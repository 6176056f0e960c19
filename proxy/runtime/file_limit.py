"""How many files a process may hold, raised at start to what the system allows, and how many connections that is.

A worker without a file left cannot accept: the kernel's queue fills and other clients are reset. So connections end
well below. Called once, before the first fork: children inherit it. Must not know settings.
"""

from __future__ import annotations

import resource

_OWN_FILES = 128
"""What a worker holds whatever its connections: modules, sockets to metadata services and S3, the log, the cache."""


def raise_file_limit() -> int:
    """The limit from now on: the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 2**31


def connections_within(files: int, wanted: int) -> int:
    """At most half of what is left: a connection may hold an object and a second descriptor of its own socket."""
    return max(1, min(wanted, (files - _OWN_FILES) // 2))
