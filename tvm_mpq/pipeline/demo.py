"""The demo: a small residual network learns scikit-learn's digits, then goes the way of every user's network."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvm_mpq.errors import InfeasibleError, MissingDependencyError
from tvm_mpq.pipeline.optimize import optimize
from tvm_mpq.pipeline.options import Options
from tvm_mpq.pipeline.result import Result
from tvm_mpq.report.contract import OptimizeReport
from tvm_mpq.schema import Budget, Progress
from tvm_mpq.tuning.database.store import default_path

if TYPE_CHECKING:
    import torch

CHANNELS = 48
EPOCHS = 12
TEST_SHARE = 0.3
LATENCY_SHARE = 0.8
"""Latency budget, as a share of uniform 8 bit: look-up kernels of 1 and 2 bit weights reach it."""
SIZE_SHARE = 0.7
"""Size budget where no kernel below 8 bit is fast enough, as a share of the weights at 8 bit."""


def demo(options: Options) -> Result[OptimizeReport]:
    """Train, then optimize under a latency budget; accuracy is of test images that training never saw.

    On a CPU whose kernels below 8 bit buy size and not time, the budget speaks of size instead; on one without such
    kernels only the default bound on accuracy is left.
    """
    train, test = digits()
    options.tell(
        f"training on {len(train[1])} digits, then measuring kernels: some minutes the first time, about one when run "
        "again; whatever is done is kept, and the same command goes on after an interruption"
    )
    model = train_network(*train, options.progress, _state(options))
    weights = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    example = (_tensor(test[0][:1]),)
    options = dataclasses.replace(
        options,
        model=model,
        example_inputs=example,
        data={"x": train[0], "labels": train[1]},
        eval_data={"x": test[0], "labels": test[1]},
        budget=Budget(latency_ratio=LATENCY_SHARE),
    )
    try:
        return optimize(options)
    except InfeasibleError as e:
        options.tell(f"fewer bits are not fast enough here ({e}); taking a size budget instead")
    try:
        return optimize(dataclasses.replace(options, budget=Budget(size_mb=SIZE_SHARE * weights / 1e6)))
    except InfeasibleError as e:
        options.tell(f"this CPU has no kernels that make the network smaller ({e}); taking no budget")
        return optimize(dataclasses.replace(options, budget=Budget()))


Split = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


def digits() -> tuple[Split, Split]:
    """scikit-learn's 1,797 real 8x8 digits as float32[N, 1, 8, 8] in [0, 1], shuffled and split."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as e:
        raise MissingDependencyError("the demo needs scikit-learn; install it with pip install 'tvm-mpq[demo]'") from e
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    images = (found.images[order, None] / 16).astype(np.float32)
    labels = found.target[order].astype(np.int64)
    cut = int(len(labels) * TEST_SHARE)
    return (images[cut:], labels[cut:]), (images[:cut], labels[:cut])


def _tensor(x: npt.NDArray[Any]) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(x))


def _state(options: Options) -> Path:
    """Where the training is kept: beside the latency database."""
    path = Path(options.db) if options.db else default_path()
    return path.with_name(f"{path.name}.demo.pt")


def train_network(
    images: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    progress: Progress | None = None,
    state: Path | None = None,
) -> torch.nn.Module:
    """A residual CNN with batch normalization, trained for half a minute or so.

    state: a file that every epoch leaves, so that the same training goes on behind the last one; None = none is kept.

    Raises
    ------
    MissingDependencyError
        If PyTorch is not installed.
    OutputError
        If the state cannot be written.
    """
    try:
        import torch
    except ImportError as e:
        raise MissingDependencyError("the demo needs PyTorch; install it with pip install 'tvm-mpq[demo]'") from e
    from tvm_mpq.training.checkpoint import Checkpoint

    torch.manual_seed(0)
    model = _network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    x, y = _tensor(images), _tensor(labels)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=EPOCHS * (len(y) // 64 + 1))
    batches = math.ceil(len(y) / 64)
    kept = None
    if state is not None:
        with contextlib.suppress(OSError):  # writing says what is wrong
            state.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
        kept = Checkpoint(state, f"{CHANNELS} channels, {EPOCHS} epochs, {digest}, PyTorch {torch.__version__}")
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    held = kept.load() if kept else None
    if held is not None:
        for name, part in parts.items():
            part.load_state_dict(held[name])
        torch.set_rng_state(held["random"])
    for epoch in range(held["epochs"] if held else 0, EPOCHS):
        for done, batch in enumerate(torch.randperm(len(y)).split(64), 1):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            schedule.step()
            if progress:
                progress(epoch * batches + done, EPOCHS * batches, "training")
        if kept:
            states = {name: part.state_dict() for name, part in parts.items()}
            kept.save({**states, "epochs": epoch + 1, "random": torch.get_rng_state()})
    return model.eval()


def _network() -> torch.nn.Module:
    from torch import Tensor, nn

    class ResidualBlock(nn.Module):
        """Two 3x3 convolutions and a shortcut; stride 2 halves the map."""

        def __init__(self, inside: int, outside: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(outside)
            self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outside)
            same = stride == 1 and inside == outside
            self.shortcut = nn.Identity() if same else nn.Conv2d(inside, outside, 1, stride, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            y = nn.functional.relu(self.bn1(self.conv1(x)))
            return nn.functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))

    class DigitsNet(nn.Module):
        """Stem, three residual blocks, global average, classifier."""

        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, CHANNELS, 3, 1, 1, bias=False)
            self.bn = nn.BatchNorm2d(CHANNELS)
            self.block1 = ResidualBlock(CHANNELS, CHANNELS, 1)
            self.block2 = ResidualBlock(CHANNELS, 2 * CHANNELS, 2)
            self.block3 = ResidualBlock(2 * CHANNELS, 2 * CHANNELS, 1)
            self.fc = nn.Linear(2 * CHANNELS, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.relu(self.bn(self.stem(x)))
            x = self.block3(self.block2(self.block1(x)))
            return self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))

    return DigitsNet()
