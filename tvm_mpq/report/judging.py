"""How a plan's drop was judged before choosing, and what images kept aside show, as lines of text."""

from __future__ import annotations

from collections.abc import Iterator

from tvm_mpq.report.contract import DropFigures, HeldFigures, Judgement, OptimizeReport, TriedPlan
from tvm_mpq.report.text import number, percent, times

DATA = {"calib": "calibration", "eval": "evaluation"}

SHOWN = 6
"""Operators whose reasons are told in full."""


def facts(report: OptimizeReport) -> list[tuple[str, str]]:
    """Name and value: the judged drop, what was close to being chosen, what was counted aside, reasons of operators."""
    judged = report.get("judgement", {})
    lines = list(_judged(judged)) if judged else []
    for name, words in (("int8", "drop of 8 bit on"), ("mixed", "drop on")):
        figures = report.get("held", {}).get(name)
        if figures:
            lines.append((f"{words} {_held_on(report)}", held_text(figures)))
    reasons = [f"{o['name']}: {o['reason']}" for o in report.get("operators", []) if o.get("reason")]
    if reasons:
        more = f"; and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
        lines.append(("floats and single bits", "; ".join(reasons[:SHOWN]) + more))
    return lines


def _held_on(report: OptimizeReport) -> str:
    """What `held` was counted on: without data for that, on the calibration images that plans were judged on."""
    own = report.get("accuracy", {}).get("on_calibration_data")
    return "the judged calibration data" if own else "evaluation data"


def _judged(judged: Judgement) -> Iterator[tuple[str, str]]:
    data = f"{DATA.get(judged.get('data', ''), 'calibration')} images"
    if "chosen" in judged:
        sure = percent(judged.get("confidence", 0.9))
        yield "drop expected", f"{drop_text(judged['chosen'])} ({sure} sure on either side) of {data}"
    seconds = number(judged.get("seconds"), " s")
    yield "judged", f"{judged.get('plans', 0)} plans in {seconds} on at most {judged.get('images', 0)} {data}"
    undecided, nearest, rival = judged.get("undecided"), judged.get("nearest"), judged.get("rival")
    if undecided:
        needed = undecided["images_needed"]
        wanted = f"about {needed} images would tell" if needed else "more images would hardly help"
        plan = f"{undecided['name']} ({number(undecided['predicted_ms'], ' ms')})"
        yield "cannot tell", f"{plan}: {drop_text(undecided['drop'])}; {wanted}"
    if nearest:
        yield "nearest uniform plan that loses too much", f"{nearest['name']}: {drop_text(nearest['drop'])}"
    if rival:
        factor = times(rival.get("share", rival["latency_ms"] / rival["searched_ms"]))
        taken = ", so it was taken" if rival["chosen"] else ""
        yield (
            "fastest uniform plan within the drop",
            f"{rival['name']}: {number(rival['latency_ms'], ' ms')}, {factor} of the searched plan's time{taken}",
        )
    if judged.get("near_ties"):
        yield "as fast within 2 %", ", ".join(judged["near_ties"]) + "; measured anew, one of them may be chosen"


def drop_text(drop: DropFigures) -> str:
    """`0.21 points (0.15 to 0.27), 300 images`."""
    estimate, low, high = _points(drop["estimate"], drop["low"], drop["high"])
    return f"{estimate} points ({low} to {high}), {drop['images']} images"


def _points(estimate: float, low: float, high: float) -> tuple[str, str, str]:
    """In hundredths, or with as many digits as it takes for the interval not to look empty."""
    shown = f"{estimate:.2f}", f"{low:.2f}", f"{high:.2f}"
    return shown if shown[1] != shown[2] or low == high else (number(estimate), number(low), number(high))


def held_text(figures: HeldFigures) -> str:
    """The interval with its counts."""
    return f"{drop_text(figures)}: {figures['better']} better and {figures['worse']} worse than fp32"


def tried_text(tried: TriedPlan) -> str:
    """One plan that was run end to end."""
    name = tried.get("name") or "searched"
    drop, bounds = f"{tried['drop']:.2f}", ""
    if "low" in tried and "high" in tried:
        drop, low, high = _points(tried["drop"], tried["low"], tried["high"])
        bounds = f" ({low} to {high})"
    return f"{name}, {number(tried['predicted_ms'], ' ms')}: {drop} points{bounds}"


GUESSING = 0.1
"""Of the way from chance to always right, up to which fp32 is said to guess."""


def _knows_nothing(judged: Judgement) -> list[str]:
    """A network that guesses has nothing to lose, whatever is done to it."""
    classes, right = judged.get("classes"), judged.get("fp32_right")
    if not classes or classes < 2:
        return []
    known = judged.get("fp32_sure", 1.0) if right is None else right
    if known > 1 / classes + GUESSING * (1 - 1 / classes):
        return []
    seen = f"{percent(known)} sure of its answers" if right is None else f"right on {percent(known)} of the images"
    return [
        f"fp32 is {seen}, and guessing among {classes} classes would be {percent(1 / classes)}: "
        "a network that knows nothing can lose nothing, so that drops near 0 tell nothing here. "
        "Is it trained, and are the data preprocessed as in training?"
    ]


def cautions(report: OptimizeReport) -> list[str]:
    """What must be known of the judgement before it is believed."""
    judged, notes = report.get("judgement", {}), []
    if judged.get("trained_on"):
        right, sure = judged.get("fp32_right"), judged.get("fp32_sure")
        seen = f"is right on {percent(right)} of them" if right is not None else f"is {percent(sure)} sure of them"
        pairs = judged.get("mixed_images", 0)
        instead = (
            f"{pairs} pairs laid over each other stood for new images, which is rough"
            if pairs
            else "the drop expected is too small"
        )
        notes.append(
            f"The calibration images look trained on (fp32 {seen}): {instead}; "
            "judge on images kept aside with --eval FILE --judge eval."
        )
    notes += _knows_nothing(judged)
    if judged.get("data") == "eval":
        notes.append("The evaluation images were used to choose the plan: its accuracy on them is no independent test.")
    most = (report.get("budget") or {}).get("max_drop")
    figures = report.get("held", {}).get("mixed")
    if most is not None and figures and figures["low"] > most:
        notes.append(f"On {_held_on(report)} the plan loses more than {most:g} points: {held_text(figures)}.")
    plan = report.get("plan", {})
    if judged.get("nearest") and plan and set(plan.values()) == {"fp32"}:
        notes.append("No plan with integers was shown to keep the drop: fp32 everywhere is the answer.")
    return notes
