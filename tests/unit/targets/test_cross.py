from __future__ import annotations

import re

import pytest

from tvm_mpq.errors import MissingDependencyError
from tvm_mpq.targets import cross, local_architecture, resolve
from tvm_mpq.targets.cpuinfo import architecture
from tvm_mpq.targets.rows import ROWS

OTHER = "aarch64" if local_architecture() != "aarch64" else "riscv64"


def having(*names: str):
    return lambda name: f"/usr/bin/{name}" if name in names else None


def test_this_machine_links_for_itself() -> None:
    assert cross.linker_for(local_architecture(), having()) is None
    assert cross.linker_of(resolve("local")) is None


def test_the_first_one_found_is_taken() -> None:
    triple = cross.TOOLCHAINS[OTHER].triple
    assert cross.linker_for(OTHER, having(f"{triple}-gcc", f"{triple}-g++")) == f"/usr/bin/{triple}-g++"
    assert cross.linker_for(OTHER, having(f"{triple}-gcc")) == f"/usr/bin/{triple}-gcc"


def test_a_missing_one_is_named_with_its_package() -> None:
    with pytest.raises(MissingDependencyError, match=re.escape(cross.TOOLCHAINS[OTHER].package)):
        cross.linker_for(OTHER, having())
    with pytest.raises(MissingDependencyError, match="no linker is known for s390x"):
        cross.linker_for("s390x", having())


def test_every_row_for_linux_has_a_toolchain() -> None:
    for row in ROWS:
        if row.mtriple and "linux" in row.mtriple:
            assert architecture(row.mtriple) in cross.TOOLCHAINS


def test_doctor_names_each(monkeypatch: pytest.MonkeyPatch) -> None:
    from tvm_mpq.pipeline import doctor

    monkeypatch.setattr(doctor, "find_linker", lambda name: None)
    found = {check["name"]: check for check in doctor._cross_compilers()}
    assert len(found) == len(cross.TOOLCHAINS) - 1
    assert found[f"linker for {OTHER}"]["mend"] == f"apt install {cross.TOOLCHAINS[OTHER].package}"
    assert {check["status"] for check in found.values()} == {"warning"}
