"""docs/events.md: its five lines and its receiver work as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from support.images import write_layout
from support.programs import ROOT, run
from support.server import Server, free_port

PAGE = (ROOT / "docs" / "events.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_five_lines_bring_a_signed_event_to_the_receiver_of_the_page(tmp_path: Path) -> None:
    server = Server.start(tmp_path / "data", workers=1, extra={"WHARFAGE_EVENTS_ALLOWED_NETWORKS": "127.0.0.0/8"})
    port = str(free_port())
    write_layout(tmp_path / "image", 3, [100])
    (tmp_path / "receiver.py").write_text(block("python").replace("8099", port))
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "wharfage").write_text(f'#!/bin/sh\nexec {sys.executable} -m proxy "$@" --data {server.data}\n')
    (bin_folder / "wharfage").chmod(0o755)
    path = [bin_folder, ROOT / ".tools" / "bin", Path(sys.executable).parent, os.environ["PATH"]]
    environ = os.environ | {
        "PATH": os.pathsep.join(map(str, path)),
        "PYTHONPATH": str(ROOT),
        "AWS_ENDPOINT_URL": server.url,
        "AWS_SHARED_CREDENTIALS_FILE": str(server.data / "credentials"),
        "AWS_DEFAULT_REGION": "us-east-1",
        "DOCKER_CONFIG": str(tmp_path),
        "REGISTRY": server.address,
    }
    crane = str(ROOT / ".tools" / "bin" / "crane")
    run(
        crane,
        "auth",
        "login",
        "-u",
        "AWS",
        "-p",
        server.password(),
        server.address,
        extra={"DOCKER_CONFIG": str(tmp_path)},
    )
    lines = block("sh").replace("8099", port).replace("receiver.py &", "receiver.py > received &\nreceiver=$!")
    waits = 'for _ in $(seq 300); do [ -s received ] && break; sleep 0.1; done; kill "$receiver"; cat received'
    try:
        done = subprocess.run(
            ["sh", "-ec", f"{lines}\n{waits}"],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "'action-type': 'PUSH', 'image-tag': 'v1'" in done.stdout, done.stderr
    finally:
        assert server.stop() == 0
