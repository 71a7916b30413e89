"""Which cases of a cross product the default run leaves out, and which it keeps."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

from sampling import SHARED, covering, on_stage, spread, stages_of

KINDS = ("publish", "apublish", "delivery", "delivery-own")
SHAPES = ("plain", "around", "transform")
ANSWERS = ("none", "a text", "a number")


def crossed(**values: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return every combination of the values."""
    return [dict(zip(values, row, strict=True)) for row in product(*values.values())]


def test_of_two_parameters_each_value_occurs() -> None:
    """A test on every kind of chain still runs on every kind."""
    cases = crossed(kind=KINDS, shape=SHAPES)

    kept = [cases[index] for index in covering(cases)]

    assert len(kept) == len(KINDS)
    assert {case["kind"] for case in kept} == set(KINDS)
    assert {case["shape"] for case in kept} == set(SHAPES)


def test_of_more_parameters_each_pair_of_values_meets() -> None:
    """No two values are tried only apart from each other."""
    cases = crossed(kind=KINDS, shape=SHAPES, answer=ANSWERS)

    kept = [cases[index] for index in covering(cases)]

    assert len(kept) < len(cases) / 2
    for one, other in combinations(cases[0], 2):
        assert {(case[one], case[other]) for case in kept} == {(case[one], case[other]) for case in cases}


def test_a_table_is_run_whole() -> None:
    """Each row is there for its own reason, even if values repeat."""
    rows = [{"text": f"row {number}", "error": ANSWERS[number % 3]} for number in range(20)]

    assert list(covering(rows)) == list(range(20))


def test_a_table_that_is_crossed_with_kinds_has_each_row_and_each_kind() -> None:
    """Its columns count as one parameter."""
    cases = [{"text": f"row {number}", "error": ANSWERS[number % 3], "kind": kind} for number in range(3, 11) for kind in KINDS]
    texts = {case["text"]: case["text"] for case in cases}
    cases = [case | {"text": texts[case["text"]]} for case in cases]

    kept = [cases[index] for index in covering(cases)]

    assert {case["text"] for case in kept} == set(texts)
    assert {case["kind"] for case in kept} == set(KINDS)
    assert len(kept) == 8


def test_few_cases_are_spread_over_all() -> None:
    """The cases come from all parts of a table, not only from its start."""
    assert spread(3, 12) == [0, 4, 8]
    assert spread(5, 3) == [0, 1, 2]
    assert spread(1, 9) == [0]


def test_what_several_tests_of_a_file_share_is_a_stage() -> None:
    """A parameter of one test is not, nor is one whose values differ from test to test."""
    cases = crossed(kind=KINDS, shape=SHAPES)
    alone = crossed(answer=ANSWERS)

    assert {name for name, _ in stages_of([cases] * SHARED + [alone])} == {"kind", "shape"}
    assert stages_of([cases] * (SHARED - 1) + [alone]) == set()


def test_the_tests_of_a_stage_run_on_all_of_it_together() -> None:
    """Each test runs on some kinds, and the next one on others."""
    kinds = tuple(f"kind {number}" for number in range(9))
    cases = crossed(kind=kinds)
    kept = [{cases[index]["kind"] for index in on_stage(cases, ["kind"], place)} for place in range(3)]

    assert [len(one) for one in kept] == [4, 4, 4]
    assert set().union(*kept) == set(kinds)


def test_on_a_stage_each_row_of_a_table_runs() -> None:
    """Each on one kind, or on more if there are few rows."""
    kept = [crossed(answer=ANSWERS, kind=KINDS)[index] for index in on_stage(crossed(answer=ANSWERS, kind=KINDS), ["kind"], 0)]

    assert {case["answer"] for case in kept} == set(ANSWERS)
    assert {case["kind"] for case in kept} == set(KINDS)
    assert len(kept) == 6
