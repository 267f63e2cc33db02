"""Answers to what goes with what, on the project's own table."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.compat import tell
from builder.compat.answers import Question, drivers, releases
from builder.compat.table import read_table
from builder.memo import Tree

ROOT = Path(__file__).parents[2]
MONTH = "2026-11"


@pytest.fixture(scope="module")
def table():
    return read_table(Tree(ROOT))


def good(answers):
    return [(each.branch, each.flavour, each.least) for each in answers if not each.against]


def test_which_driver_for_b200_with_torch_2_8(table):
    """Supported branches first, among them long term support, and the open module alone."""
    question = Question(gpus=("B200",), frameworks=(("torch", "2.8.0"),))
    assert good(drivers(question, table, MONTH)) == [
        ("620", "open", "620"),
        ("580", "open", "580"),
        ("595", "open", "595"),
        ("570", "open", "570.124.06"),
        ("610", "open", "610"),
    ]


def test_an_ended_branch_is_no_best_answer(table):
    """In 2030 none is maintained any more, and the newest of long term support leads."""
    question = Question(gpus=("H100",))
    assert drivers(question, table, "2030-01")[0].maintained == "ended"


def test_what_refuses_a_driver_is_told(table):
    question = Question(gpus=("B200",))
    by_name = {(a.branch, a.flavour): a.against for a in drivers(question, table, MONTH)}
    assert "runs with the open module alone" in by_name["580", "proprietary"][0]
    assert "needs driver 570 or later" in by_name["550", "open"][0]


def test_a_driver_that_is_given_is_the_only_one(table):
    question = Question(gpus=("H100",), driver="550.163.01", flavour="proprietary")
    (answer,) = drivers(question, table, MONTH)
    assert (answer.branch, answer.maintained, answer.against) == ("550", "ended", ())


def test_a_kernel_counts(table):
    question = Question(driver="550.163.01", kernel="6.12.117+deb13-cloud-amd64")
    assert [each[1] for each in good(drivers(question, table, MONTH))] == ["proprietary"]


def test_which_torch_for_driver_550(table):
    question = Question(gpus=("H100",), driver="550.163.01", frameworks=(("torch", ""),))
    answers = releases(question, table, MONTH)
    whole = [each.version for each in answers if each.branches and not each.notes]
    partly = [each.version for each in answers if each.branches and each.notes]
    assert whole[0] == "2.6.0"
    assert partly == ["2.10.0", "2.9.1", "2.8.0", "2.7.1"]
    refused = {each.version: each.against for each in answers if not each.branches}
    assert "needs driver 580.65.06 or later" in refused["2.15.0"][0]


def test_a_framework_brings_what_it_needs(table):
    """vLLM's CUDA is that of the torch that it wants."""
    question = Question(gpus=("B200",), frameworks=(("vllm", ""),))
    by_version = {each.version: each for each in releases(question, table, MONTH)}
    assert (by_version["0.10.2"].cuda, by_version["0.10.2"].against) == ("12.8", ())
    assert "B200 needs CUDA 12.8" in by_version["0.8.5.post1"].against[0]


def test_answers_as_lines(table):
    question = Question(gpus=("B200",), frameworks=(("torch", "2.8.0"),))
    lines = list(tell.driver_lines(question, drivers(question, table, MONTH)))
    assert lines[0] == "drivers for B200 with torch 2.8.0"
    assert lines[1].split() == [
        "620",
        "open",
        "any",
        "of",
        "it",
        "long",
        "term",
        "support",
        "until",
        "2029-09",
    ]
    assert "  570  open        570.124.06 or later   ended" in lines
    assert lines[lines.index("not") + 1].startswith("  620 proprietary, 580 proprietary")


def test_no_answer_says_so(table):
    question = Question(gpus=("V100", "B200"))
    lines = list(tell.driver_lines(question, drivers(question, table, MONTH)))
    assert lines[:2] == ["no driver for V100, B200", "not"]


def test_whoever_has_one_driver_is_told_every_reason(table):
    question = Question(gpus=("B200",), driver="550", frameworks=(("torch", "2.15.0"),))
    lines = list(tell.driver_lines(question, drivers(question, table, MONTH)))
    for reason, of in [
        ("B200 needs driver 570 or later; this is 550 [gpu-driver]", "550 open, 550 proprietary"),
        ("CUDA 13.2 of torch 2.15.0 needs driver 580.65.06", "550 open, 550 proprietary"),
        ("B200 (blackwell) runs with the open module alone [gpu-module]", "550 proprietary"),
    ]:
        (place,) = [i for i, line in enumerate(lines) if line.strip().startswith(reason)]
        assert lines[place - 1].strip() == of


def test_whoever_asks_for_a_driver_is_told_one_reason_for_each(table):
    question = Question(gpus=("B200",), frameworks=(("torch", "2.15.0"),))
    answers = drivers(question, table, MONTH)
    lines = list(tell.driver_lines(question, answers))
    names = ", ".join(lines[lines.index("not") + 1 :: 2]).replace("  ", "").split(", ")
    assert sorted(names) == sorted(f"{a.branch} {a.flavour}" for a in answers if a.against)


def test_a_branch_without_such_a_module_says_so(table):
    question = Question(driver="470", flavour="open")
    lines = list(tell.driver_lines(question, drivers(question, table, MONTH)))
    assert lines[1].strip() == "470 has no open module"


def test_releases_as_lines(table):
    question = Question(driver="550", frameworks=(("torch", ""),))
    lines = list(tell.release_lines(question, releases(question, table, MONTH)))
    assert lines[0] == "releases of torch for driver 550"
    assert "  2.6.0         CUDA 12.4   drivers 550" in lines


def test_answers_for_machines(table):
    question = Question(gpus=("B200",))
    answer = drivers(question, table, MONTH)[0].to_json()
    assert answer["branch"] == "620"
    assert answer["level"] == "ok"
