"""Who else can say what a source model computes: independent evaluators, one for each kind of model.

An importer hands one over with the module it made (`Imported.reference`); `execute.import_check` runs both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tvm_mpq.frontends.checks import GenericArray


@dataclass(frozen=True)
class Answer:
    """What an evaluator gave: the model's outputs in their order. evaluator: such as `ONNX Runtime 1.23`."""

    evaluator: str
    outputs: list[GenericArray]


class Reference(Protocol):
    """An evaluator of the model as its author wrote it, which shares no code with the importer."""

    def answers(self, inputs: Mapping[str, GenericArray]) -> Iterator[Answer]:
        """For inputs by the model's own names; from one evaluator after another, computed when it is asked for.

        The first one decides, which is the one that users run; where evaluators differ, nobody's word is safe to build.

        Raises
        ------
        NoReferenceError
            When none of them answers.
        """

    def tensors(self, inputs: Mapping[str, GenericArray], names: Sequence[str]) -> dict[str, GenericArray]:
        """Those of the named tensors of the model that the first evaluator can show. Raises NoReferenceError.

        Names are those of `Imported.tensors`, whatever they are to the importer that made it.
        """
