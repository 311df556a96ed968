"""What an exported program computes: by PyTorch itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tvm_mpq.errors import NoReferenceError
from tvm_mpq.frontends.checks import GenericArray, one_line
from tvm_mpq.frontends.reference import Answer


class TorchReference:
    """Implements `frontends.reference.Reference`; inputs by name in the order in which the program takes them.

    program: a torch.export.ExportedProgram, as the user exported it.
    """

    def __init__(self, program: Any, input_names: Sequence[str]) -> None:
        self._program = program
        self._input_names = tuple(input_names)

    def answers(self, inputs: Mapping[str, GenericArray]) -> Iterator[Answer]:
        import torch
        from torch.utils import _pytree as trees

        module, args, kwargs = self._call(inputs)
        results, _ = trees.tree_flatten(_answer(lambda: module(*args, **kwargs)))
        yield Answer(f"PyTorch {torch.__version__}", [_array(r) for r in results if isinstance(r, torch.Tensor)])

    def tensors(self, inputs: Mapping[str, GenericArray], names: Sequence[str]) -> dict[str, GenericArray]:
        """By the names of the program's nodes."""
        import torch
        from torch.utils import _pytree as trees

        wanted, found = set(names), {}

        class Recorder(torch.fx.Interpreter):
            def run_node(self, n: Any) -> Any:
                result = super().run_node(n)
                if n.name in wanted and isinstance(result, torch.Tensor):
                    found[n.name] = _array(result)
                return result

        module, args, kwargs = self._call(inputs)
        flat, _ = trees.tree_flatten((args, kwargs))
        _answer(lambda: Recorder(module).run(*flat, enable_io_processing=False))
        return found

    def _call(self, inputs: Mapping[str, GenericArray]) -> tuple[Any, Any, Any]:
        import torch
        from torch.utils import _pytree as trees

        flat = [torch.from_numpy(np.array(inputs[n], order="C")) for n in self._input_names]
        spec = self._program.call_spec.in_spec
        if spec.num_leaves != len(flat):
            raise NoReferenceError("the program takes arguments that are no tensors")
        args, kwargs = trees.tree_unflatten(flat, spec)
        return self._program.module(), args, kwargs


def _answer(run: Callable[[], Any]) -> Any:
    import torch

    try:
        with torch.no_grad():
            return run()
    except Exception as e:
        raise NoReferenceError(f"PyTorch cannot run the program ({one_line(e)})") from e


def _array(tensor: Any) -> GenericArray:
    array: GenericArray = tensor.detach().cpu().numpy()
    return array
