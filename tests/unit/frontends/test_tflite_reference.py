"""LiteRT says what a TFLite file computes, and says so only where its numbers are a measure of the float32 network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mpq_testing.tflite_models import Tensor, classified, classifier_tensors, write
from tvm_mpq.errors import NoReferenceError
from tvm_mpq.frontends import load_model
from tvm_mpq.frontends.tflite_reference import LiteRTReference


@pytest.fixture
def tensors(rng: np.random.Generator) -> list[Tensor]:
    return classifier_tensors(rng)


def test_outputs_and_tensors_within(tensors: list[Tensor], tmp_path: Path, rng: np.random.Generator) -> None:
    """The batch is another one than the file's."""
    loaded = load_model(write(tmp_path / "net.tflite", tensors), batch=2)
    x = rng.standard_normal((2, 4, 4, 2)).astype(np.float32)
    assert loaded.reference is not None
    (answer,) = loaded.reference.answers({"serving_input:0": x})
    assert answer.evaluator.startswith("LiteRT ")
    np.testing.assert_allclose(answer.outputs[0], classified(tensors, x), rtol=0, atol=1e-4)
    shown = loaded.reference.tensors({"serving_input:0": x}, [*loaded.tensors.values(), "nothing"])
    assert tensors[3].name in shown and "nothing" not in shown
    assert shown[tensors[3].name].shape == (2, 2, 2, 3) and (shown[tensors[3].name] >= 0).all()


def test_integers_of_the_file_are_no_measure(tensors: list[Tensor], tmp_path: Path, rng: np.random.Generator) -> None:
    integers = rng.integers(-127, 128, (5, 12)).astype(np.int8)
    tensors[6] = Tensor(tensors[6].name, (5, 12), integers, "int8", (1.0,))
    loaded = load_model(write(tmp_path / "net.tflite", tensors))
    assert loaded.reference is not None
    with pytest.raises(NoReferenceError, match="rounds activations that meet int8 weights"):
        next(loaded.reference.answers({"serving_input:0": np.zeros((1, 4, 4, 2), np.float32)}))


def test_what_litert_refuses() -> None:
    with pytest.raises(NoReferenceError, match=r"^LiteRT refuses the model [^\n]*$"):
        next(LiteRTReference(b"nonsense", {}).answers({}))
