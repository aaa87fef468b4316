"""Tables of estimates: every figure in its section with its whole protocol, yardsticks beside what they measure."""

from __future__ import annotations

import random
import re
from typing import Any, get_args

import pytest

from advae.cli.console import print_estimates
from advae.evaluation import estimate as records
from advae.report.estimate_table import (
    TITLES,
    Section,
    arranged,
    headlines,
    sections,
    settings,
)
from advae.report.kinds import MEANINGS, meanings
from advae.report.number_format import listed


def figure(name: str, kind: str = "error", section: str = "samples", **protocol: Any) -> dict[str, Any]:
    found = {"name": name, "value": 1.0, "stderr": 0.1, "kind": kind, "unit": "nats", "n": 10}
    return {**found, "section": section, "interval": None, "protocol": protocol}


def remark(about: str, text: str = "It is so.", warning: bool = False) -> dict[str, Any]:
    return {"about": about, "text": text, "warning": warning}


def names(section: Section) -> list[str]:
    return [row.name for row in section.rows]


def test_every_kind_has_a_meaning_and_every_section_a_title() -> None:
    assert set(MEANINGS) == set(get_args(records.Kind))
    assert tuple(TITLES) == get_args(records.Section)
    assert [kind for kind, _ in meanings([figure("a", "score"), figure("b", "yardstick")])] == [
        "score",
        "yardstick",
    ]


def test_sections_come_in_their_order_and_others_after_them() -> None:
    given = ["samples", "speed", "critics", "likelihood", "samples"]
    tables, _ = sections([figure(str(i), section=section) for i, section in enumerate(given)])
    assert [table.title for table in tables] == ["Likelihood", "Critics", "Samples", "Speed"]
    assert names(tables[2]) == ["0", "4"]


def test_a_yardstick_stands_under_the_figure_it_measures() -> None:
    given = [
        figure("rmse", section="reconstruction"),
        figure("rmsey"),
        figure("FID[a]"),
        figure("FID[a] of classes"),
        figure("alone of test data", "yardstick"),
        figure("FID[a]b of test data", "yardstick"),
        figure("FID[a] of classes of test data", "yardstick"),
        figure("FID[a] of test data", "yardstick"),
        figure("rmse (PCA-8)", "yardstick"),
    ]
    table = sections(given)[0][1]
    assert names(table) == [
        "rmsey",
        "FID[a]",
        "FID[a] of test data",
        "FID[a] of classes",
        "FID[a] of classes of test data",  # the longest name that begins its own
        "alone of test data",
        "FID[a]b of test data",
        "rmse (PCA-8)",  # what it would measure is in another section
    ]
    assert [row.yardstick for row in table.rows] == [False, False, True, False, True, True, True, True]


def test_figures_of_one_name_in_two_units_stand_together() -> None:
    assert arranged([figure("a"), figure("b"), {**figure("a"), "unit": "of 2"}]) == [0, 2, 1]


def test_no_setting_of_any_figure_is_lost_and_none_is_lent() -> None:
    rng = random.Random(0)
    for _ in range(50):
        estimates = [
            figure(str(i), section=rng.choice(["likelihood", "samples"]), **_protocol(rng))
            for i in range(rng.randint(1, 16))
        ]
        tables, common = sections(estimates)
        given = {str(e["name"]): settings(e) for e in estimates}
        for table in tables:
            notes = dict(table.notes)
            for row in table.rows:
                said = [common, *(notes[mark] for mark in row.note.split(",") if mark)]
                for text in table.protocol.split("; "):
                    but, _, nearly = text.rpartition(": ")
                    said += [nearly] if row.name not in but.split() else []
                parts = [part for text in said if text for part in text.split(" · ")]
                assert sorted(parts) == sorted(listed({k: v}) for k, v in given[row.name].items())


def test_what_nearly_all_rows_share_stands_above_with_its_exceptions() -> None:
    rows = [figure(name, k=4, seed=0) for name in "abcdefg"] + [figure("h", seed=0)]
    table, other = sections([*rows, figure("i", section="speed")])[0]
    assert table.protocol == "seed 0; all but h: k 4"
    assert {row.note for row in table.rows} == {""}
    table, other = sections([*rows[5:], figure("i", section="speed")])[0]
    assert table.protocol == "seed 0"
    assert table.notes == [("a", "k 4")]
    assert other.protocol == ""


def _protocol(rng: random.Random) -> dict[str, Any]:
    return {key: rng.choice("xy") for key in "abcd" if rng.random() < 0.8}


def test_settings_that_the_same_rows_have_are_said_once() -> None:
    table = sections(
        [
            figure("elbo", draws=16, proposal="q", split="test"),
            figure("iwae", draws=64, proposal="q", split="test"),
            figure("iwae (bits/dim)", draws=64, proposal="q", split="test"),
            figure("exact", split="test"),
        ]
    )[0][0]
    assert table.protocol == ""  # said for all tables
    assert table.notes == [("a", "draws 16"), ("b", "proposal q"), ("c", "draws 64")]
    assert [row.note for row in table.rows] == ["a,b", "b,c", "b,c", ""]


def test_remarks_find_their_section() -> None:
    estimates = [
        figure("elbo (critic)", section="likelihood"),
        figure("bdmc lower", section="likelihood"),
        figure("FID[a]"),
        figure("f10", section="samples"),
        figure("accuracy[f1] on train", section="critics"),
    ]
    places = {
        "likelihood": "Likelihood",
        "critic": "Critics",  # not the figure of another section whose name has the word
        "critic f1": "Critics",
        "f1": "Critics",  # in brackets a name stands whole
        "samples": "Samples",
        "bdmc": "Likelihood",
        "FID[a]": "Samples",
        "fid[a] of test data": "Samples",
        "posterior": "Posterior",  # a section without figures
        "machine": "Remarks",
        "": "Remarks",
    }
    tables, _ = sections(estimates, [remark(about, f"About {about!r}.") for about in places])
    found = {said.text: table.title for table in tables for said in table.remarks}
    assert found == {f"About {about!r}.": title for about, title in places.items()}
    assert [table.title for table in tables][-1] == "Remarks"


def test_warnings_are_apart_and_figures_are_named_where_the_text_does_not() -> None:
    table = sections(
        [figure("FID[a]")],
        [
            remark("FID[a]", "Few images.", True),
            remark("FID[a]", "FID[a] is small."),
            remark("samples", "Sharp."),
        ],
    )[0][0]
    assert [str(said) for said in table.warnings] == ["FID[a]: Few images."]
    assert [str(said) for said in table.remarks] == ["FID[a] is small.", "Sharp."]


def test_old_files_are_one_table_without_a_title() -> None:
    old = [
        {k: v for k, v in figure(n, split="test").items() if k not in ("section", "interval")} for n in "ab"
    ]
    tables, common = sections(old)
    assert [(table.title, names(table)) for table in tables] == [("", ["a", "b"])]
    assert common == "split test"
    assert [row.name for row in headlines(old)] == ["a", "b"]


def test_headlines_judge_the_model() -> None:
    estimates = [
        figure("FID[a] of test data", "yardstick"),
        figure("copying[a]", "diagnostic"),
        figure("FID[a]"),
        figure("IS[a]", "score"),
        figure("active units", "diagnostic", "posterior"),
        figure("kl (critic)", "adversarial estimate", "likelihood"),
        figure("bdmc lower", "lower bound", "likelihood"),
        figure("ais", "lower bound", "likelihood"),
    ]
    assert [row.name for row in headlines(estimates)] == ["ais", "FID[a]"]


def test_estimates_in_a_pipe_are_plain_columns(capsys: pytest.CaptureFixture[str]) -> None:
    estimates = [
        figure("elbo", "lower bound", "likelihood", split="test", draws=4),
        {**figure("FID[a]", split="test"), "unit": "", "interval": [0.8123, 1.2041]},
        {**figure("FID[a] of test data", "yardstick", split="test"), "unit": ""},
    ]
    remarks = [remark("samples", "The model does not copy."), remark("FID[a]", "Few images.", True)]
    print_estimates(estimates, remarks)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "Likelihood",
        "(draws 4)",
        "estimate                   value  95 % interval  unit  kind          n",
        "elbo                 1.00 ± 0.10                 nats  lower bound  10",
        "",
        "Samples",
        "estimate                   value  95 % interval  unit  kind          n",
        "FID[a]               1.00 ± 0.10   [0.81, 1.20]        error        10",
        "FID[a] of test data  1.00 ± 0.10                       yardstick    10",
        "warning: FID[a]: Few images.",
        "The model does not copy.",
        "",
        "(common to all: split test)",
    ]
    print_estimates([figure("elbo", split="test")])
    assert not re.search(r"interval|note|common", capsys.readouterr().out)


@pytest.mark.parametrize("width", [50, 80, 200])
def test_estimates_on_a_terminal_are_whole_at_any_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    estimates = [
        {**figure("FID[digits-classifier]", k=4), "interval": [0.8123, 1.2041]},
        figure("FID[digits-classifier] of test data", "yardstick", k=5),
        figure("kl (critic)", "adversarial estimate", "likelihood", k=5),
    ]
    print_estimates(estimates, [remark("samples", "word " * 40, True)])
    out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, out.splitlines())) <= width
    for cell in ("[0.81, 1.20]", "1.00 ± 0.10", "k 4", "k 5", "warning:"):
        assert cell in out
