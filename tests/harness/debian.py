"""A Debian tree to build images on where no registry of base images can be reached: debootstrap makes it.

It has what deploy/Dockerfile asks of a base, and this machine's certificate authorities, as a company's own base would:
the build fetches packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from harness.engines import Docker
from harness.programs import ROOT, find, run

SUITE = "bookworm"
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


def import_base(docker: Docker, folder: Path, name: str) -> None:
    """Make the tree under `folder` and give it to the engine as an image. Packages are kept for a later time."""
    tree, packages = folder / "tree", ROOT / ".cache" / "debootstrap"
    packages.mkdir(parents=True, exist_ok=True)
    wanted = "--include=python3,python3-venv,ca-certificates"
    run("debootstrap", "--variant=minbase", f"--cache-dir={packages}", wanted, SUITE, tree, MIRROR, timeout=600)
    if AUTHORITIES.exists():
        shutil.copy(AUTHORITIES, tree / AUTHORITIES.relative_to("/"))
    with subprocess.Popen(
        ["tar", "-C", tree, "--exclude=./var/cache/apt", "--exclude=./var/lib/apt/lists", "-c", "."],
        stdout=subprocess.PIPE,
    ) as packing:
        subprocess.run(
            [find("docker") or "docker", "--host", f"unix://{docker.socket}", "import", "-", name],
            stdin=packing.stdout,
            check=True,
            capture_output=True,
            timeout=300,
        )
    shutil.rmtree(tree)
