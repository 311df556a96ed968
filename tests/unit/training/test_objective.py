"""What fine-tuning minimizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tvm_mpq.training.objective import Objective, hits, is_probability

STUDENT = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.5, 3.0]])
TEACHER = torch.tensor([[2.0, 1.0, 0.0], [0.5, 0.0, 2.0]])


def softmax(y: torch.Tensor, temperature: float = 1.0) -> np.ndarray:
    e = np.exp(y.double().numpy() / temperature)
    return np.asarray(e / e.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_classes_are_distilled(temperature: float) -> None:
    p, q = softmax(TEACHER, temperature), softmax(STUDENT, temperature)
    wanted = (p * np.log(p / q)).sum(axis=1).mean() * temperature**2
    found = Objective(True, temperature, 0.0).loss((STUDENT,), (TEACHER,), torch.tensor([0, 1]))
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_labels_are_added() -> None:
    labels = torch.tensor([0, 1])
    entropy = -np.log(softmax(STUDENT)[[0, 1], labels.numpy()]).mean()
    alone = Objective(True, 2.0, 0.0).loss((STUDENT,), (TEACHER,), labels)
    both = Objective(True, 2.0, 0.3).loss((STUDENT,), (TEACHER,), labels)
    assert float(both - alone) == pytest.approx(0.3 * entropy, rel=1e-5)


def test_probabilities_are_taken_as_such() -> None:
    """A network that ends in softmax is distilled like its logits."""
    ended = [torch.softmax(y, dim=1) for y in (STUDENT, TEACHER)]
    assert is_probability(ended[0]) and not is_probability(STUDENT)
    found = Objective(True, 2.0, 0.0).loss((ended[0],), (ended[1],), None)
    wanted = Objective(True, 2.0, 0.0).loss((STUDENT,), (TEACHER,), None)
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)


def test_other_outputs_are_imitated() -> None:
    more = (torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0]))
    found = Objective(False, 2.0, 0.0).loss((STUDENT, more[0]), (TEACHER, more[1]), None)
    parts = [float(((s - t) ** 2).mean() / (t**2).mean()) for s, t in ((STUDENT, TEACHER), more)]
    assert float(found) == pytest.approx(np.mean(parts), rel=1e-5)


def test_hits_are_counted() -> None:
    assert hits(STUDENT, torch.tensor([1, 0])) == 1
