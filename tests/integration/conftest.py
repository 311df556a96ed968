"""What whole-network tests share: compiled kernels on disk, prepared networks, and quick measurement settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from mpq_testing.lab import Lab
from mpq_testing.onnx_models import GRAPHS


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of compiled kernels for all tests: equal requests of different networks are compiled once."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="session")
def sharing(kernels: Path) -> Callable[[Path], Path]:
    """sharing(path of a database that is not there yet) -> the same path; its kernels are those of all tests."""

    def share(db: Path) -> Path:
        (db.parent / f"{db.name}.kernels").symlink_to(kernels)
        return db

    return share


@pytest.fixture(scope="session")
def lab(kernels: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Lab]:
    """lab(name): a graph of `mpq_testing.onnx_models`, prepared and calibrated once; `.model` is its ONNX file."""
    made: dict[str, Lab] = {}

    def get(name: str) -> Lab:
        if name not in made:
            path = tmp_path_factory.mktemp(name) / f"{name}.onnx"
            onnx.save(GRAPHS[name](), str(path))
            made[name] = Lab(path, kernels)
        return made[name]

    return get
