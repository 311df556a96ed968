from __future__ import annotations

from pathlib import Path

from tvm_mpq.targets.rapl import energy_counters


def counter(folder: Path, name: str, text: str | None) -> Path:
    """A domain as Linux shows it; one without text cannot be read."""
    path = folder / name / "energy_uj"
    path.parent.mkdir()
    path.mkdir() if text is None else path.write_text(text)
    return path


def test_packages_are_counted_and_their_parts_are_not(tmp_path: Path) -> None:
    first = counter(tmp_path, "intel-rapl:0", "123456\n")
    second = counter(tmp_path, "intel-rapl:1", "7\n")
    counter(tmp_path, "intel-rapl:0:0", "99\n")
    assert energy_counters(tmp_path) == ([first, second], "")


def test_why_there_is_none(tmp_path: Path) -> None:
    assert energy_counters(tmp_path / "absent") == ([], f"no package has an energy counter in {tmp_path / 'absent'}")
    shut = counter(tmp_path, "intel-rapl:0", None)
    assert energy_counters(tmp_path) == ([], f"{shut} cannot be read by this user")
    open_one = counter(tmp_path, "intel-rapl:1", "1")
    assert energy_counters(tmp_path) == ([open_one], "")
