"""What the commands share: options that several of them take, progress, and how an answer is printed."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tvm_mpq.cli.guard import watch_crashes
from tvm_mpq.cli.talk import invocation
from tvm_mpq.cli.values import (
    METHODS,
    OBSERVERS,
    REGULARISERS,
    ROUNDINGS,
    known_precisions,
    known_shapes,
    one_of,
)
from tvm_mpq.errors import MissingFileError

if TYPE_CHECKING:
    from tvm_mpq.pipeline.options import Options

_T = TypeVar("_T")

Command = Callable[..., None]


def data_option(flag: str, field: str, text: str, required: bool = False) -> Callable[[Command], Command]:
    """An option that takes an `.npz`, which must be there: said before the model is imported and verified."""

    def check(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
        if value is not None and not value.exists():
            raise MissingFileError(f"no data file at {str(value)!r}")
        return value

    path = click.Path(path_type=Path)
    return click.option(flag, field, type=path, callback=check, required=required, help=text)


def solver_option(command: Command) -> Command:
    return click.option(
        "--solver-seconds",
        "solver_time_limit_sec",
        type=click.FloatRange(0, 1e6, min_open=True),
        default=60.0,
        help="Solver's time limit for each solve.",
    )(command)


def precisions_option(command: Command) -> Command:
    return click.option(
        "--precisions",
        callback=known_precisions,
        metavar="P,P,...",
        help="Choose among these, such as w4a8,w2a4, beside fp32 and w8a8; default: all that pay on the target.",
    )(command)


def input_shape_option(command: Command) -> Command:
    return click.option(
        "--input-shape",
        "input_shapes",
        multiple=True,
        callback=known_shapes,
        metavar="NAME=1x3x320x320",
        help="Sizes of an input with dynamic axes, batch and all; for each such input.",
    )(command)


def model_options(command: Command) -> Command:
    command = input_shape_option(command)
    for option in (
        click.option("--threads", type=click.IntRange(1), help="Threads the library will use; default 1, or a plan's."),
        click.option(
            "--requantize", is_flag=True, help="Of a model that was quantized elsewhere: find scales and integers anew."
        ),
        click.option("--batch", type=click.IntRange(1), default=1, help="Size given to a dynamic batch axis."),
        click.option("--target", default="local", help="A name from `tvm-mpq targets`, or local."),
        click.argument("model", type=click.Path(path_type=Path)),
    ):
        command = option(command)
    return command


def work_options(command: Command) -> Command:
    command = verify_option(command)
    for option in (
        click.option("--db", type=click.Path(path_type=Path), help="Latency database file; default: user's cache."),
        click.option(
            "--observer",
            default="mse",
            callback=one_of(OBSERVERS),
            help="Activation ranges: minmax, percentile, mse or output.",
        ),
        click.option(
            "--rounding",
            default="gptq",
            callback=one_of(ROUNDINGS),
            help="Weights: nearest; gptq: to each operator's outputs on the calibration data; adaround: from there on "
            "learned block by block, which takes minutes a plan and PyTorch.",
        ),
        data_option("--data", "data", "Calibration .npz, arrays named as the inputs."),
    ):
        command = option(command)
    return command


def verify_option(command: Command) -> Command:
    return click.option(
        "--verify-import/--no-verify-import",
        default=True,
        help="Compare the imported network with an independent evaluator (ONNX Runtime, torch, ...) on one sample.",
    )(command)


def effort_options(command: Command) -> Command:
    """What the methods beside the solver take."""
    for option in (
        click.option("--free-bits", is_flag=True, help="Then raise the bits of whatever is faster with more."),
        click.option("--pin-ends", is_flag=True, help="amed, haq: hold first and last operator at 8 bits."),
        click.option(
            "--cut",
            type=click.Choice(["last", "cheapest"]),
            default="last",
            help="haq: where bits are taken away to keep a budget: from the last operator on (the paper's), or where "
            "it costs least.",
        ),
        click.option("--walks", type=click.IntRange(1), help="haq: walks of the agent; default: 600, the paper's."),
        click.option(
            "--updates",
            type=click.IntRange(1),
            help="freebits: updates of the gates; default: 440, some minutes to an hour.",
        ),
        click.option(
            "--method-seconds",
            type=click.FloatRange(0, 1e6, min_open=True),
            help="Time limit of methods other than ilp, for each plan.",
        ),
        click.option(
            "--evaluations",
            type=click.IntRange(1),
            help="Plans that methods other than ilp price at most, for each plan; default: the method's own.",
        ),
        click.option(
            "--regulariser",
            type=click.Choice(REGULARISERS),
            default="bitops",
            help="freebits: what bits cost while they are learned, bit operations or the tables' latency.",
        ),
        click.option("--seed", type=int, default=0, help="Of methods that draw."),
    ):
        command = option(command)
    return command


def method_options(command: Command) -> Command:
    choice = click.Choice(METHODS)
    return click.option(
        "--method", type=choice, default="ilp", help="How plans are searched; ilp alone proves; haq needs the extra rl."
    )(effort_options(command))


def source_options(command: Command) -> Command:
    """Whose costs plans are weighed by, and the limit that only some sources can hold."""
    energy = "Millijoule a run that each plan may take; where the latency source gives energies."
    command = click.option("--energy-mj", type=float, help=energy)(command)
    from_simulators = (
        "a simulated machine: mpic[:8cores|:8bit|:8cores-8bit], bismo:{edge,cloud}, bitfusion, "
        "zigzag:{eyeriss_like,edge_tpu_like,tpu_like}, "
        "scalesim:{systolic,low_memory,eyeriss}"
    )
    return click.option(
        "--latency-source",
        default="measured",
        help=f"Whose latencies (and energies): measured, of the target; or {from_simulators}.",
    )(command)


def board_options(command: Command) -> Command:
    for option in (
        click.option("--key", help="With --rpc: the boards' key at the tracker."),
        click.option("--rpc", metavar="HOST:PORT", help="Do it on a board: its RPC server, or with --key its tracker."),
    ):
        command = option(command)
    return command


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object to stdout.")(command)


def budget_options(command: Command) -> Command:
    command = limit_options(command)
    for option in (
        click.option("--nearest", is_flag=True, help="Where no plan keeps the budget, build the nearest one."),
        click.option("--max-drop", type=float, help="Accuracy points that may be lost; 1 when no budget is given."),
    ):
        command = option(command)
    return command


def limit_options(command: Command) -> Command:
    """What a plan may cost by the tables."""
    for option in (
        click.option("--size-mb", type=float, help="Weights, in megabytes of 10^6 bytes."),
        click.option("--latency-ms", type=float, help="Whole-network latency, milliseconds."),
        click.option("--latency", "latency_ratio", type=float, help="Latency as a share of uniform 8 bit, 0 to 1."),
    ):
        command = option(command)
    return command


def with_progress(body: Callable[[Options], _T], *, stages: Mapping[str, float] | None = None, **fields: Any) -> _T:
    """Call `body(options)` with progress and messages on stderr, as far as they are wanted.

    stages: of a job whose whole is shown too, with their parts of the time.
    """
    from tvm_mpq.pipeline.options import Options
    from tvm_mpq.report.progress import ProgressLine, phases

    call = invocation()
    watch_crashes()
    options = Options(**fields, command=call.command)
    call.begun = True
    if call.quiet:
        return body(options)
    without = () if options.finetune_epochs else ("fine-tuning",)
    with ProgressLine(bar=not call.verbose, phases=phases(stages or {}, without=without)) as line:
        return body(dataclasses.replace(options, progress=line.update, say=line.say))


def answer(report: _T, as_json: bool, show: Callable[[_T], None]) -> None:
    """Print a report: as one JSON object, or through the function that shows it."""
    invocation().begun = True
    if as_json:
        click.echo(json.dumps(finite(report), indent=1, sort_keys=True, allow_nan=False))
    else:
        show(report)


def finite(value: Any) -> Any:
    """NaN and infinity, which JSON does not have, as null."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
