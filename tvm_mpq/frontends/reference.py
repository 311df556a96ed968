"""Who else can say what a source model computes: independent evaluators, one for each kind of model.

An importer hands one over with the module it made (`Imported.reference`); `execute.import_check` runs both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from tvm_mpq.frontends.checks import GenericArray


class Reference(Protocol):
    """An evaluator of the model as its author wrote it, which shares no code with the importer."""

    @property
    def name(self) -> str:
        """Who answers, such as `ONNX Runtime 1.23`; known once `outputs` has answered."""

    def outputs(self, inputs: Mapping[str, GenericArray]) -> list[GenericArray]:
        """The model's outputs in their order, for inputs by the model's own names. Raises NoReferenceError."""

    def tensors(self, inputs: Mapping[str, GenericArray], names: Sequence[str]) -> dict[str, GenericArray]:
        """Those of the named tensors of the model that the evaluator can show. Raises NoReferenceError.

        Names are those of `Imported.tensors`, whatever they are to the importer that made it.
        """
