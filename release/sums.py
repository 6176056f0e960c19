"""SHA256SUMS over a folder of releases, and its signature.

    python release/sums.py FOLDER [KEY]

KEY is an SSH private key, or the public one of a key that the agent holds; the signature is `ssh-keygen -Y`'s, in the
namespace NAMESPACE, beside the sums. Without KEY the sums are not signed, which is said, and no older signature stays.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

NAMESPACE = "wharfage"
SUMS, SIGNATURE = "SHA256SUMS", "SHA256SUMS.sig"


def write_sums(folder: Path) -> Path:
    """As `sha256sum --check` reads them, of every file but the sums themselves."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name not in (SUMS, SIGNATURE))
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    sums = folder / SUMS
    sums.write_text("".join(lines))
    (folder / SIGNATURE).unlink(missing_ok=True)
    return sums


def sign(sums: Path, key: Path) -> None:
    """CalledProcessError where ssh-keygen cannot; it says why itself."""
    subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(sums)], check=True)


def main(folder: str, key: str = "") -> int:
    sums = write_sums(Path(folder))
    if not key:
        print(f"{sums} is NOT signed: SIGN_KEY=FILE names an SSH key to sign with", file=sys.stderr)
        return 0
    sign(sums, Path(key).expanduser())
    print(f"{sums} is signed by {key}: {SIGNATURE}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:3]))
