"""What these tests share: cross compilers and emulators, fetched when they are not installed."""

from __future__ import annotations

from types import ModuleType

import pytest

from mpq_testing.emulated import EmulatedMachine, Tools, board_module


@pytest.fixture(scope="session")
def packages() -> ModuleType:
    return board_module("packages")


@pytest.fixture(scope="session")
def machine(packages: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> EmulatedMachine:
    cache = packages.default_cache()

    def tools(architecture: str) -> Tools:
        try:
            with packages.locked(cache):
                gcc, qemu = packages.cross_compiler(cache, architecture), packages.emulator(cache, architecture)
        except packages.BoardError as e:
            pytest.skip(f"kernels for {architecture} cannot be run here: {e}")
        return Tools(gcc, qemu, packages.libraries_root(cache, architecture))

    return EmulatedMachine(tools, tmp_path_factory.mktemp("boards"))
