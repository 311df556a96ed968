"""A folder that `optimize` or `build` saved, read again: what its library takes, and how it wants to be run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tvm_mpq.errors import FileFormatError, MissingFileError
from tvm_mpq.execute.prepare import InputSpecs
from tvm_mpq.execute.profile import KernelCall
from tvm_mpq.schema import Plan


@dataclass(frozen=True)
class BuiltFolder:
    """inputs: in the order in which the library takes them. classifies: whether its outputs are scores of classes."""

    path: Path
    plan: Plan
    model: str
    inputs: InputSpecs
    threads: int
    classifies: bool

    @property
    def library(self) -> Path:
        return self.path / "model.so"

    def calls(self) -> list[KernelCall]:
        """Of a run, in order. Raises FileFormatError where the folder was built before calls were written down."""
        try:
            return [KernelCall.from_json(row) for row in self.plan.info["calls"]]
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as e:
            raise FileFormatError(f"{str(self.path / 'plan.json')!r} does not list the kernels; build it again") from e


def built_plan(folder: Path) -> Plan:
    """Raises MissingFileError if the folder holds no library, FileFormatError for a broken plan."""
    if not (folder / "model.so").is_file():
        raise MissingFileError(f"no model.so in {str(folder)!r}; build one with tvm-mpq optimize or build")
    return Plan.load(folder / "plan.json")


def open_folder(folder: Path) -> BuiltFolder:
    """Raises MissingFileError, or FileFormatError also where the plan does not say what the inputs are."""
    plan = built_plan(folder)
    try:
        info = plan.info
        return BuiltFolder(
            folder, plan, str(info["model"]), _inputs(plan), int(info["threads"]), bool(info["classifies"])
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as e:
        raise FileFormatError(f"{str(folder / 'plan.json')!r} does not describe the inputs; build it again") from e


def _inputs(plan: Plan) -> InputSpecs:
    """In the order in which the library takes them. Older plans had lost it, and can serve one input only."""
    stored = plan.info["inputs"]
    if isinstance(stored, dict):
        stored = [[name, *spec] for name, spec in stored.items()]
        if len(stored) > 1:
            raise ValueError("the order of the inputs is not known")
    return {str(name): (tuple(shape), str(dtype)) for name, shape, dtype in stored}
