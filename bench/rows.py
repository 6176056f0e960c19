"""What an image costs in rows: bytes of the SQLite file, after many images of a shape that registries hold.

    python bench/rows.py [--images 1000] [--layers 6] [--shared 4]

Starts a server on a fresh data directory and pushes images, each with a config and some layers of its own and the rest
shared by all. Layers are a few bytes: rows do not grow with them. Prints bytes an image and a blob, indexes included.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]  # run as a script: `support` is in tests

from support.connections import Connection  # noqa: E402 - once the path above is set
from support.registry import OCI_MANIFEST, image_manifest  # noqa: E402 - as above
from support.server import Server  # noqa: E402 - as above


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--shared", type=int, default=4, help="of the layers")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wharfage-rows-") as folder:
        server = Server.start(Path(folder) / "data", workers=1, extra={"WHARFAGE_LOG_LEVEL": "error"})
        try:
            empty = used(server.data / "metadata.db")
            blobs = push(server, asked.images, asked.layers, asked.shared)
            grown = used(server.data / "metadata.db") - empty
        finally:
            server.daemon.stop()
    print(f"{asked.images:,} images, {blobs:,} blobs: {grown:,} bytes of rows and indexes")
    print(f"{grown / asked.images:,.0f} bytes an image, {grown / blobs:,.0f} bytes a blob with its share of all else")


def push(server: Server, images: int, layers: int, shared: int) -> int:
    """How many blobs there are then."""
    kind = {"Content-Type": OCI_MANIFEST}
    with closing(Connection(server, server.password())) as line:
        common = [f"shared {number}".encode() for number in range(shared)]
        for content in common:
            line.push_blob("team/app", content)
        for number in range(images):
            config = b'{"architecture": "amd64", "os": "linux", "number": "%d"}' % number
            own = [f"layer {each} of {number}".encode() for each in range(layers - shared)]
            for content in (config, *own):
                line.push_blob("team/app", content)
            manifest = image_manifest(config, [*common, *own])
            line.ask("PUT", f"/v2/team/app/manifests/build-{number}", manifest, kind).expect(201)
    return shared + images * (1 + layers - shared)


def used(database: Path) -> int:
    """Bytes of the pages in use, whether they are in the file or still beside it."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as rows:
        (pages,), (free,), (size,) = (
            rows.execute(f"PRAGMA {what}").fetchone() for what in ("page_count", "freelist_count", "page_size")
        )
    return int((pages - free) * size)


if __name__ == "__main__":
    main()
