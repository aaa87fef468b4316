"""Tables of estimates: sections, protocols, footnotes, baselines and remarks."""

from __future__ import annotations

import random
from types import ModuleType
from typing import get_args

import pytest

from advae.evaluation import estimate as evaluation
from advae.formatting import TableSection, join_items
from advae.report.estimate_table import (
    KIND_DESCRIPTIONS,
    SECTION_TITLES,
    display_order,
    estimate_table,
    kind_legend,
    protocol_items,
)


def labels(section: TableSection) -> list[str]:
    return [row.label for row in section.rows]


def test_every_kind_has_a_description_and_every_section_a_title() -> None:
    assert set(KIND_DESCRIPTIONS) == set(get_args(evaluation.Kind))
    assert tuple(SECTION_TITLES) == get_args(evaluation.Section)
    assert [kind for kind, _ in kind_legend(["baseline", "score"])] == [
        "score",
        "baseline",
    ]


def test_known_sections_come_first_in_their_order(fakes: ModuleType) -> None:
    sections = ["samples", "speed", "critics", "likelihood", "samples"]
    table = estimate_table(
        [fakes.make_estimate(str(i), section=section) for i, section in enumerate(sections)]
    )
    assert [section.title for section in table.sections] == ["Likelihood", "Critics", "Samples", "Speed"]
    assert labels(table.sections[2]) == ["0", "4"]


def test_baselines_follow_the_estimate_of_their_metric_and_protocol(fakes: ModuleType) -> None:
    fid_a, fid_b = {"metric": "fid", "features": "a"}, {"metric": "fid", "features": "b"}
    estimates = [
        fakes.make_estimate("rmse", section="reconstruction"),
        fakes.make_estimate("FID[a]", **fid_a),
        fakes.make_estimate("FID[b]", **fid_b),
        fakes.make_estimate("alone of test data", 1.0, "baseline", metric="alone"),
        fakes.make_estimate("FID[b] of test data", 1.0, "baseline", **fid_b),
        fakes.make_estimate("FID[a] of test data", 1.0, "baseline", **fid_a),
        fakes.make_estimate("rmse of test data", 1.0, "baseline", metric="rmse"),
    ]
    section = estimate_table(estimates).sections[1]
    assert labels(section) == [
        "FID[a]",
        "FID[a] of test data",
        "FID[b]",
        "FID[b] of test data",
        "alone of test data",
        "rmse of test data",  # its metric is in another section
    ]
    assert [row.baseline for row in section.rows] == [False, True, False, True, True, True]


def test_estimates_of_one_name_in_two_units_are_adjacent(fakes: ModuleType) -> None:
    estimates = [fakes.make_estimate("a"), fakes.make_estimate("b"), fakes.make_estimate("a", unit="of 2")]
    assert display_order(estimates) == [0, 2, 1]


def test_the_settings_shown_for_an_estimate_are_exactly_its_protocol(fakes: ModuleType) -> None:
    rng = random.Random(0)
    for _ in range(50):
        estimates = [
            fakes.make_estimate(
                str(i),
                section=rng.choice(["likelihood", "samples"]),
                protocol={key: rng.choice("xy") for key in "abcd" if rng.random() < 0.8},
            )
            for i in range(rng.randint(1, 16))
        ]
        protocols = {str(e["name"]): protocol_items(e) for e in estimates}
        table = estimate_table(estimates)
        for section in table.sections:
            footnotes = {note.label: note.text for note in section.footnotes}
            for row in section.rows:
                texts = [table.protocol, *(footnotes[mark] for mark in row.marks.split(",") if mark)]
                for text in section.protocol.split("; "):
                    exceptions, _, settings = text.rpartition(": ")
                    texts += [settings] if row.label not in exceptions.split() else []
                settings_shown = sorted(part for text in texts if text for part in text.split(" · "))
                assert settings_shown == sorted(join_items({k: v}) for k, v in protocols[row.label].items())


def test_settings_of_nearly_all_rows_are_in_the_protocol_with_exceptions(fakes: ModuleType) -> None:
    rows = [fakes.make_estimate(name, k=4, seed=0) for name in "abcdefg"] + [fakes.make_estimate("h", seed=0)]
    section, _ = estimate_table([*rows, fakes.make_estimate("i", section="speed")]).sections
    assert section.protocol == "seed 0; all but h: k 4"
    assert {row.marks for row in section.rows} == {""}
    section, other = estimate_table([*rows[5:], fakes.make_estimate("i", section="speed")]).sections
    assert section.protocol == "seed 0"
    assert [(note.label, note.text) for note in section.footnotes] == [("a", "k 4")]
    assert other.protocol == ""


def test_settings_of_the_same_rows_share_a_footnote(fakes: ModuleType) -> None:
    table = estimate_table(
        [
            fakes.make_estimate("elbo", samples=16, proposal="q", split="test"),
            fakes.make_estimate("iwae", samples=64, proposal="q", split="test"),
            fakes.make_estimate("iwae (bits/dim)", samples=64, proposal="q", split="test"),
            fakes.make_estimate("exact", split="test"),
        ]
    )
    (section,) = table.sections
    assert (table.protocol, section.protocol) == ("split test", "")
    assert [(note.label, note.text) for note in section.footnotes] == [
        ("a", "samples 16"),
        ("b", "proposal q"),
        ("c", "samples 64"),
    ]
    assert [row.marks for row in section.rows] == ["a,b", "b,c", "b,c", ""]


def test_columns_without_any_text_are_left_out(fakes: ModuleType) -> None:
    table = estimate_table([fakes.make_estimate("a", unit="")])
    assert [column.title for column in table.columns] == ["metric", "value", "kind", "n"]
    assert [cell.text for cell in table.rows[0].cells] == ["1.00 ± 0.10", "error", "100"]


def test_remarks_are_in_the_section_that_they_name_or_of_the_estimate_they_are_about(
    fakes: ModuleType,
) -> None:
    estimates = [
        fakes.make_estimate("bdmc lower", metric="bdmc", section="likelihood"),
        fakes.make_estimate("FID[a]", metric="fid"),
    ]
    remarks = [
        fakes.make_remark("critic", "About critic.", section="critics"),
        fakes.make_remark("bdmc", "About bdmc."),
        fakes.make_remark("FID[a]", "About FID[a]."),
        fakes.make_remark("posterior", "About posterior."),
        fakes.make_remark("machine", "About machine."),
        fakes.make_remark("", "About nothing."),
    ]
    table = estimate_table(estimates, remarks)
    assert {s.title: [note.text for note in s.notes] for s in table.sections} == {
        "Likelihood": ["About bdmc."],
        "Posterior": ["About posterior."],  # a section without estimates
        "Critics": ["About critic."],
        "Samples": ["About FID[a]."],
        "Remarks": ["About machine.", "About nothing."],
    }


def test_warnings_come_first_and_notes_name_their_estimate_once(fakes: ModuleType) -> None:
    remarks = [
        fakes.make_remark("FID[a]", "FID[a] is small."),
        fakes.make_remark("samples", "Sharp."),
        fakes.make_remark("FID[a]", "Few images.", True),
    ]
    (section,) = estimate_table([fakes.make_estimate("FID[a]")], remarks).sections
    assert [(str(note), note.warning) for note in section.notes] == [
        ("FID[a]: Few images.", True),
        ("FID[a] is small.", False),
        ("Sharp.", False),
    ]


def test_criteria_of_a_verdict_are_rows(fakes: ModuleType) -> None:
    criteria = [
        {"name": "accuracy gap", "value": 0.28, "threshold": 0.05, "passed": False, "limit": "max"},
        {"name": "effective sample size", "value": 40.0, "threshold": 10.0, "passed": True, "limit": "min"},
    ]
    (section,) = estimate_table(
        [], [fakes.make_remark("critics", "Unreliable.", True, criteria=criteria)]
    ).sections
    assert section.notes[0].criteria == (
        ("accuracy gap", "0.28", "≤ 0.05", False),
        ("effective sample size", "40", "≥ 10", True),
    )


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_missing_and_infinite_values_have_a_row(fakes: ModuleType, value: float | None) -> None:
    (row,) = estimate_table([fakes.make_estimate("a", value)]).rows
    assert row.cells[0].text in ("—", "not finite")
