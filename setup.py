"""Builds the one compiled module, `_speedups.native`; everything else about the package is in pyproject.toml.

A machine without a C compiler, or without Python.h, gets a package without it: the pure twin runs, and both this
build and every start-up say so aloud. Any other failure is an error, so that a slow registry is never a surprise.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup  # type: ignore[import-untyped]  # it ships no types
from setuptools.command.build_ext import build_ext  # type: ignore[import-untyped]


class BuildNative(build_ext):  # type: ignore[misc]
    def build_extensions(self) -> None:
        missing = self._missing()
        if missing:
            sys.stderr.write(
                f"\n*** wharfage: {missing}: building WITHOUT _speedups.native. The pure twin will run, which costs "
                "CPU on every push. ***\n\n"
            )
            self.extensions.clear()
            return
        super().build_extensions()

    def _missing(self) -> str | None:
        """What the machine lacks, in words, or None. Only these two are excused."""
        command = getattr(self.compiler, "compiler_so", None)  # a list; Windows compilers find themselves
        if command is not None and shutil.which(command[0]) is None:
            return f"no C compiler ({command[0]} not found)"
        paths = sysconfig.get_paths()
        if not any((Path(paths[name]) / "Python.h").exists() for name in ("include", "platinclude")):
            return f"no Python.h in {paths['include']}"
        return None


setup(
    ext_modules=cythonize(  # type: ignore[no-untyped-call]
        [
            Extension(
                "_speedups.native",
                [
                    "_speedups/native.pyx",
                    "_speedups/sha2.c",
                    "_speedups/together.c",
                    "_speedups/crc32.c",
                    "_speedups/writes.c",
                ],
                depends=["_speedups/sha2.h", "_speedups/together.h", "_speedups/crc32.h", "_speedups/writes.h"],
                extra_compile_args=["-O3", "-pthread"],
                extra_link_args=["-pthread"],
            )
        ],
    ),
    cmdclass={"build_ext": BuildNative},
)
