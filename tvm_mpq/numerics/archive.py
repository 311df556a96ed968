"""Reading `.npz` archives from anywhere: nothing is unpickled, and sizes are looked at before memory is taken."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.errors import FileFormatError

_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 10_000


def read_npz(path: str | Path, hint: str = "") -> dict[str, npt.NDArray[Any]]:
    """All arrays of an archive by name.

    Parameters
    ----------
    hint
        What to do about one that cannot be read; stands at the end of the message.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileFormatError
        If it is no archive of plain arrays, or its arrays would take more than half of this machine's memory.
    """
    name, hint = repr(str(path)), f"; {hint}" if hint else ""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            total, most = sum(member.file_size for member in members), memory_bytes() // 2
            if total > most:
                raise FileFormatError(
                    f"{name} holds {total / 1e9:.3g} GB, more than half of this machine's memory ({most / 1e9:.3g} GB)"
                    f"{hint}"
                )
            return {member.filename.removesuffix(".npy"): _array(archive, member) for member in members}
    except (FileNotFoundError, FileFormatError):
        raise
    except Exception as e:  # zipfile, zlib, the tokenizer and NumPy each raise their own for a damaged archive
        why = "it is one bare array" if _is_bare(Path(path)) else str(e) or type(e).__name__
        raise FileFormatError(f"{name} is not a readable .npz archive: {why}{hint}") from e


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    """Raises ValueError where the header claims another size than the member has, or objects."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"array {member.filename!r} is of version {version}")
        shape, _, dtype = read(stream, max_header_size=_LONGEST_HEADER)
        if dtype.hasobject:
            raise ValueError(f"array {member.filename!r} holds Python objects, which are never loaded")
        count = 1
        for extent in shape:
            count *= extent
        if min(shape, default=0) < 0 or count * dtype.itemsize != member.file_size - stream.tell():
            raise ValueError(f"array {member.filename!r} claims a shape of {shape} and does not have it")
    with archive.open(member) as stream:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False, max_header_size=_LONGEST_HEADER))


def _is_bare(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def memory_bytes() -> int:
    """Of this machine; where it does not say, as much as a small one has."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 4 * 10**9
