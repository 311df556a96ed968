"""What tests for ARM share: a cross compiler and an emulator, fetched when they are not installed."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from mpq_testing.emulated import EmulatedMachine, board_module


@pytest.fixture(scope="session")
def packages() -> ModuleType:
    return board_module("packages")


@pytest.fixture(scope="session")
def machine(packages: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> EmulatedMachine:
    cache: Path = packages.default_cache()
    try:
        with packages.locked(cache):
            gcc, qemu = packages.cross_compiler(cache), packages.emulator(cache)
    except packages.BoardError as e:
        pytest.skip(f"kernels for ARM cannot be run here: {e}")
    return EmulatedMachine(gcc, qemu, packages.libraries_root(cache), tmp_path_factory.mktemp("arm"))
