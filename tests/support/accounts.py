"""Further accounts of a running server, each with an administrator whose key only the caller has."""

from __future__ import annotations

import json
import sys

from support.programs import run
from support.server import Server

Key = tuple[str, str]


def open_account(server: Server, account: str) -> Key:
    """Access key id and secret of the new account's user `administrator`, as the command line makes it. Blocks."""
    made = json.loads(run(sys.executable, "-m", "proxy", "account", "create", "--data", server.data, account).stdout)
    return made["access_key_id"], made["secret_access_key"]
