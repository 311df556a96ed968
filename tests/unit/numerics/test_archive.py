"""Archives from anywhere: taken as NumPy takes them, refused in one line otherwise, and never unpickled."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tvm_mpq.errors import FileFormatError
from tvm_mpq.numerics import archive
from tvm_mpq.numerics.archive import read_npz


class Spring:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self._path), "w")


def member(header: str, content: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def made(folder: Path, **members: bytes) -> Path:
    path = folder / "made.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as stream:
        for name, content in members.items():
            stream.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize("compressed", [False, True])
def test_what_numpy_writes_is_read(compressed: bool, tmp_path: Path, rng: np.random.Generator) -> None:
    arrays = {
        "a": rng.normal(size=(3, 4)).astype(np.float32),
        "b": np.asfortranarray(rng.integers(0, 9, (2, 3))),
        "scalar": np.asarray(2.5),
        "none": np.zeros((0, 3), np.uint8),
        "words": np.array(["one", "three"]),
        "big": np.arange(5, dtype=">i4"),
    }
    (np.savez_compressed if compressed else np.savez)(tmp_path / "a.npz", **arrays)
    found = read_npz(tmp_path / "a.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_objects_are_never_loaded(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([Spring(tmp_path / "sprung")], object), allow_pickle=True)
    path = made(tmp_path, x=stream.getvalue())
    with pytest.raises(FileFormatError, match="Python objects, which are never loaded"):
        read_npz(path)
    path.write_bytes(pickle.dumps(Spring(tmp_path / "sprung")))
    with pytest.raises(FileFormatError, match="not a readable"):
        read_npz(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-4, -4)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (15,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (16,)",
        "{'descr': '<U99999999', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'shape': (16,)}",
        "(" * 200,
        '"""',
    ],
)
def test_a_header_that_claims_something_else(header: str, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="readable") as caught:
        read_npz(made(tmp_path, x=member(header, bytes(64))), "save it again")
    assert str(caught.value).endswith("; save it again")


def test_absurd_sizes_are_refused_before_memory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes that unpack to more than half of the memory."""
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000,)}"
    path = made(tmp_path, x=member(header, bytes(1_000_000)))
    assert path.stat().st_size < 5000 and len(read_npz(path)["x"]) == 1_000_000
    monkeypatch.setattr(archive, "memory_bytes", lambda: 2_100_000)
    assert len(read_npz(path)["x"]) == 1_000_000, "less than half"
    monkeypatch.setattr(archive, "memory_bytes", lambda: 1_900_000)
    monkeypatch.setattr(archive, "_array", lambda *_: pytest.fail("memory was taken"))
    with pytest.raises(FileFormatError, match=r"holds 0\.001 GB, more than half of this machine's memory"):
        read_npz(path)


def test_a_bare_array_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(FileFormatError, match="one bare array"):
        read_npz(tmp_path / "a.npy")
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "b.npz")
    with pytest.raises(FileFormatError, match="not a readable"):
        read_npz(tmp_path)


def test_memory_is_that_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 10**8 < archive.memory_bytes() < 10**14

    def unknown(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(archive.os, "sysconf", unknown)
    assert archive.memory_bytes() == 4 * 10**9
