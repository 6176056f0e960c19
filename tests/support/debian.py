"""A Debian tree to build images on where no registry of base images can be reached: debootstrap makes it.

It has what deploy/Dockerfile asks of a base, and this machine's certificate authorities, as a company's own base would:
the build fetches packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from support.engines import Docker
from support.programs import ROOT, find, run

SUITE = "bookworm"
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


KEPT_SECONDS = 7 * 86_400.0  # a tree is used again for so long: the build updates what it installs


def import_base(docker: Docker, name: str) -> None:
    """Give the tree to the engine as an image; packages, and for a week the tree, are kept for a later time."""
    cache = ROOT / ".cache" / "debootstrap"
    cache.mkdir(parents=True, exist_ok=True)
    packed = cache / f"{SUITE}.tree"
    if not packed.exists() or time.time() - packed.stat().st_mtime > KEPT_SECONDS:
        _make(packed, cache)
    with packed.open("rb") as tree:
        subprocess.run(
            [find("docker") or "docker", "--host", f"unix://{docker.socket}", "import", "-", name],
            stdin=tree,
            check=True,
            capture_output=True,
            timeout=300,
        )


def _make(packed: Path, packages: Path) -> None:
    """Whole or not at all. dpkg syncs none of its files, as in Debian's own images: what a crash took is made anew."""
    with tempfile.TemporaryDirectory(prefix="wharfage-tree-") as folder:
        tree = Path(folder) / "tree"
        settings = tree / "etc" / "dpkg" / "dpkg.cfg.d" / "image"
        settings.parent.mkdir(parents=True)
        settings.write_text("force-unsafe-io\npath-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\n")
        wanted = "--include=python3,python3-venv,ca-certificates"
        run("debootstrap", "--variant=minbase", f"--cache-dir={packages}", wanted, SUITE, tree, MIRROR, timeout=600)
        if AUTHORITIES.exists():
            shutil.copy(AUTHORITIES, tree / AUTHORITIES.relative_to("/"))
        draft = packed.with_suffix(f".{os.getpid()}")
        left_out = ("--exclude=./var/cache/apt", "--exclude=./var/lib/apt/lists")
        try:
            run("tar", "-C", tree, *left_out, "-cf", draft, ".")
            draft.replace(packed)
        finally:
            draft.unlink(missing_ok=True)
