"""C++ programs built with CMake; tests that need them are skipped, with the reason, where it is not installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt install {program}")


def build_program(source: Path, build: Path, *options: str) -> None:
    """Configure with `options` and build; a failure shows what CMake and the compiler said."""
    for command in (["cmake", "-S", source, "-B", build, *options], ["cmake", "--build", build]):
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
