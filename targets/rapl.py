"""Energy counters of x86 packages (RAPL), as Linux shows them under /sys/class/powercap: whether they can be read."""

from __future__ import annotations

from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


def energy_counters(folder: Path = POWERCAP) -> tuple[list[Path], str]:
    """The files of all packages' counters (microjoules) that can be read, and in words why there is none; "" where
    there is."""
    found = sorted(folder.glob("*-rapl:[0-9]*/energy_uj"))
    packages = [path for path in found if path.parent.name.count(":") == 1]  # a second colon: part of a package
    if not packages:
        return [], f"no package has an energy counter in {folder}"
    readable = [path for path in packages if _reads_a_number(path)]
    return readable, "" if readable else f"{packages[0]} cannot be read by this user"


def _reads_a_number(path: Path) -> bool:
    try:
        return path.read_text(encoding="ascii").strip().isdecimal()
    except (OSError, UnicodeDecodeError):
        return False
