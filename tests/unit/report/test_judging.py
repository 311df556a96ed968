"""What a report says of how the drop was judged."""

from __future__ import annotations

from typing import Any

import pytest

from tvm_mpq.report import html, judging, summary

Report = dict[str, Any]


def facts(report: Report) -> dict[str, str]:
    return dict(judging.facts(report))  # type: ignore[arg-type]


def test_the_interval_and_what_it_cost(report: Report) -> None:
    found = facts(report)
    assert found["drop expected"].startswith("0.30 points (0.20 to 0.40), 100 images (90.0 % sure")
    assert found["judged"] == "2 plans in 12.5 s on at most 300 calibration images"
    assert found["drop on evaluation data"] == (
        "0.37 points (-0.20 to 0.90), 539 images: 1 better and 3 worse than fp32"
    )
    assert not {"cannot tell", "fastest uniform plan within the drop", "as fast within 2 %"} & set(found)


def test_what_was_counted_on_calibration_data_is_called_so(report: Report) -> None:
    report["accuracy"]["on_calibration_data"] = True
    report["held"]["mixed"]["low"], report["budget"] = 0.6, {"max_drop": 0.5}
    assert "drop on the judged calibration data" in facts(report)
    notes = judging.cautions(report)  # type: ignore[arg-type]
    assert any(note.startswith("On the judged calibration data the plan loses more") for note in notes)


@pytest.mark.parametrize(
    ("figures", "shown"),
    [
        ((0.001, 0.0004, 0.0042), "0.00100 points (4.00e-04 to 0.00420), 32 images"),
        ((0.0, 0.0, 0.0), "0.00 points (0.00 to 0.00), 32 images"),  # of fp32 itself: known
        ((0.2, 0.1, 0.3), "0.20 points (0.10 to 0.30), 32 images"),
    ],
)
def test_no_interval_looks_empty_that_is_not(figures: tuple[float, float, float], shown: str) -> None:
    estimate, low, high = figures
    assert judging.drop_text({"estimate": estimate, "low": low, "high": high, "images": 32}) == shown
    tried: Any = {"predicted_ms": 0.2, "loss": 0.1, "drop": estimate, "low": low, "high": high}
    assert judging.tried_text(tried) == f"searched, 0.200 ms: {shown.removesuffix(', 32 images')}"


@pytest.mark.parametrize(
    ("right", "sure", "classes", "words"),
    [
        (0.12, 0.9, 10, "right on 12.0 % of the images, and guessing among 10 classes would be 10.0 %"),
        (None, 0.11, 10, "11.0 % sure of its answers"),
        (0.5, 0.11, 10, ""),
        (0.54, 0.9, 2, "guessing among 2 classes would be 50.0 %"),
        (0.6, 0.9, 2, ""),
        (0.0, 0.0, None, ""),
    ],
)
def test_a_network_that_guesses_has_nothing_to_lose(
    report: Report, right: float | None, sure: float, classes: int | None, words: str
) -> None:
    report["judgement"] |= {"fp32_right": right, "fp32_sure": sure, "classes": classes}
    notes = [note for note in judging.cautions(report) if "can lose nothing" in note]  # type: ignore[arg-type]
    assert len(notes) == bool(words) and all(words in note for note in notes)


def test_what_was_close(report: Report) -> None:
    drop = {"estimate": 0.4, "low": 0.3, "high": 0.7, "images": 300}
    report["judgement"] |= {
        "undecided": {"name": "uniform w6a8", "predicted_ms": 0.18, "drop": drop, "images_needed": 1200},
        "nearest": {"name": "uniform w4a8", "drop": drop},
        "rival": {"name": "uniform w7a8", "latency_ms": 0.19, "searched_ms": 0.2, "chosen": True},
        "near_ties": ["uniform w8a8"],
    }
    found = facts(report)
    assert found["cannot tell"].startswith("uniform w6a8 (0.180 ms): 0.40 points")
    assert found["cannot tell"].endswith("about 1200 images would tell")
    assert found["nearest uniform plan that loses too much"].startswith("uniform w4a8: 0.40 points")
    assert found["fastest uniform plan within the drop"] == (
        "uniform w7a8: 0.190 ms, 0.95x of the searched plan's time, so it was taken"
    )
    report["judgement"]["rival"]["share"] = 0.97  # round by round
    assert ", 0.97x of the searched plan's time" in facts(report)["fastest uniform plan within the drop"]
    assert "uniform w8a8" in found["as fast within 2 %"]
    report["judgement"]["undecided"]["images_needed"] = None
    assert facts(report)["cannot tell"].endswith("more images would hardly help")


def test_reasons_are_told_and_shown(report: Report) -> None:
    report["operators"][-1]["reason"] = "fp32: 3.0 us; at w8a8 the network would take 2.0 us more"
    assert facts(report)["floats and single bits"] == f"fc: {report['operators'][-1]['reason']}"
    assert report["operators"][-1]["reason"] in html.render(report)  # type: ignore[arg-type]


def test_many_reasons_are_cut(report: Report) -> None:
    report["operators"] = [{**report["operators"][0], "name": f"o{i}", "reason": "r"} for i in range(judging.SHOWN + 2)]
    assert facts(report)["floats and single bits"].endswith("o5: r; and 2 more")


@pytest.mark.parametrize(
    ("right", "mixed", "words"),
    [
        (0.998, 300, "fp32 is right on 99.8 % of them): 300 pairs laid over each other"),
        (None, 0, "fp32 is 99.0 % sure of them): the drop expected is too small"),
    ],
)
def test_images_that_look_trained_on(report: Report, right: float | None, mixed: int, words: str) -> None:
    report["judgement"] |= {"trained_on": True, "fp32_right": right, "fp32_sure": 0.99, "mixed_images": mixed}
    (note,) = judging.cautions(report)  # type: ignore[arg-type]
    assert words in note and "--judge eval" in note


def test_images_used_to_choose_are_no_test(report: Report) -> None:
    report["judgement"]["data"] = "eval"
    assert any("used to choose" in note for note in summary.cautions(report))  # type: ignore[arg-type]


def test_a_drop_that_evaluation_images_refute(report: Report) -> None:
    report["budget"] = {"max_drop": 0.5}
    assert judging.cautions(report) == []  # type: ignore[arg-type]
    report["held"]["mixed"]["low"] = 0.6
    assert "loses more than 0.5 points" in judging.cautions(report)[0]  # type: ignore[arg-type]


def test_fp32_as_the_answer_is_said(report: Report) -> None:
    report["plan"] = dict.fromkeys(report["plan"], "fp32")
    report["judgement"]["nearest"] = {"name": "uniform w8a8", "drop": report["judgement"]["chosen"]}
    assert any("fp32 everywhere is the answer" in note for note in judging.cautions(report))  # type: ignore[arg-type]


def test_reports_of_older_versions_say_nothing(report: Report) -> None:
    del report["judgement"], report["held"]
    assert judging.facts(report) == [] and judging.cautions(report) == []  # type: ignore[arg-type]
    assert judging.tried_text({"predicted_ms": 0.2, "loss": 0.1, "drop": 0.3}) == "searched, 0.200 ms: 0.30 points"


def test_the_bound_is_what_the_budget_is_held_against(report: Report) -> None:
    """Measured on these images, 0.4 points; expected of new ones, 0.3, and at most 0.4."""
    for most, met in ((0.41, True), (0.39, False)):
        report["budget"] = {"max_drop": most}
        (limit,) = summary.limits(report)  # type: ignore[arg-type]
        assert limit.met is met and "upper bound" in limit.name and limit.got == "0.400 points"
