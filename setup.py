"""Builds the one compiled module, `_speedups.native`; everything else about the package is in pyproject.toml.

A machine without a C compiler, or without Python.h, gets a package without it: the pure twin runs, and both this
build and every start-up say so aloud. Any other failure is an error, so that a slow registry is never a surprise.
WHARFAGE_PURE=1, which chooses the pure twin at run time, builds a wheel without it for any platform.
"""

from __future__ import annotations

import os
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


def extensions() -> list[Extension]:
    if os.environ.get("WHARFAGE_PURE") == "1":
        return []
    sources = ["native.pyx", "sha2.c", "together.c"]
    headers = ["sha2.h", "together.h"]
    native = Extension(
        "_speedups.native",
        [f"_speedups/{name}" for name in sources],
        depends=[f"_speedups/{name}" for name in headers],
        extra_compile_args=["-O3", "-pthread"],
        extra_link_args=["-pthread"],
    )
    found: list[Extension] = cythonize([native])  # type: ignore[no-untyped-call]
    return found


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildNative})
