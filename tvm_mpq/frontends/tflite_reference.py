"""What a TFLite model computes: by LiteRT, where it is installed."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tvm_mpq.errors import NoReferenceError
from tvm_mpq.frontends.checks import GenericArray, one_line
from tvm_mpq.frontends.reference import Answer


class LiteRTReference:
    """Implements `frontends.reference.Reference`; tensors by their names in the file.

    shapes: of each input, which may be others than in the file. rounds: why LiteRT's numbers are no measure of the
    float32 network, "" where they are: it computes with a file's integers, of weights alone or of all tensors.
    """

    def __init__(self, data: bytes, shapes: Mapping[str, tuple[int, ...]], rounds: str = "") -> None:
        self._data, self._shapes, self._rounds = data, dict(shapes), rounds

    def answers(self, inputs: Mapping[str, GenericArray]) -> Iterator[Answer]:
        network = self._run(inputs, keep=False)
        outputs = [np.array(network.get_tensor(o["index"])) for o in network.get_output_details()]
        yield Answer(f"LiteRT {importlib.metadata.version('ai-edge-litert')}", outputs)

    def tensors(self, inputs: Mapping[str, GenericArray], names: Sequence[str]) -> dict[str, GenericArray]:
        network = self._run(inputs, keep=True)
        wanted = set(names)
        shown = {t["name"]: t["index"] for t in network.get_tensor_details() if t["name"] in wanted}
        return {name: np.array(network.get_tensor(index)) for name, index in shown.items()}

    def _run(self, inputs: Mapping[str, GenericArray], *, keep: bool) -> Any:
        """LiteRT's interpreter after a run. keep: with all tensors in it, not the outputs alone."""
        if self._rounds:
            raise NoReferenceError(self._rounds)
        try:
            from ai_edge_litert.interpreter import Interpreter, OpResolverType
        except ImportError as e:
            raise NoReferenceError("LiteRT is not installed (pip install ai-edge-litert)") from e
        # Its delegate for CPUs keeps no tensors within, greets on stderr, and computes the same.
        plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        try:
            network = Interpreter(
                model_content=self._data,
                num_threads=1,
                experimental_op_resolver_type=plain,
                experimental_preserve_all_tensors=keep,
            )
            places = {details["name"]: details["index"] for details in network.get_input_details()}
            for name, shape in self._shapes.items():
                network.resize_tensor_input(places[name], list(shape))
            network.allocate_tensors()
            for name, index in places.items():
                network.set_tensor(index, np.asarray(inputs[name], order="C"))
            network.invoke()
        except Exception as e:
            raise NoReferenceError(f"LiteRT refuses the model ({one_line(e)})") from e
        return network
