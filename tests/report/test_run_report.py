"""The report: whole, self-contained, safe, and honest about what is missing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from advae.report import write_report
from advae.report.figure_data import study
from advae.report.html import png_size

HOSTILE = "<script>alert('x')</script> & $\\frac{ \"q\""


class Page(HTMLParser):
    """What a page is made of, and what it asks for."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.asked: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        wanted = {"src", "href", "srcset", "action", "data", "poster"}
        self.asked += [value or "" for name, value in attrs if name in wanted]
        if tag not in {"meta", "img", "source", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.text += " " if tag in {"td", "th"} else ""

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data


def estimate(name: str, value: Any, kind: str = "lower bound", **more: Any) -> dict[str, Any]:
    protocol = {"split": "test", **more.pop("protocol", {})}
    filled = {"name": name, "value": value, "stderr": 0.2, "kind": kind, "unit": "nats", "n": 180}
    return {**filled, "protocol": protocol, **more}


@pytest.fixture(scope="module")
def full(fakes: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A report of a run that has everything, with a hostile string wherever a user can write one."""
    path = tmp_path_factory.mktemp("runs") / "run"
    path.mkdir()
    data = fakes.digits()
    data.name = HOSTILE
    run = fakes.FakeRun(
        path,
        config={"recipe": HOSTILE, "seed": 3, "method": {"name": HOSTILE}, "train": {"batch_size": 128}},
        env={"versions": {"torch": HOSTILE}, "device": "cpu"},
        command=f"advae train {HOSTILE}",
        lines=[{"step": s, "time": s, "train/kl": 1.0 / s, f"train/{HOSTILE}": 1.0} for s in range(1, 40)],
        figures=[
            estimate("iwae-64", -84.1234, protocol={"draws": 64, "note": HOSTILE}),
            estimate("elbo (critic)", -80.0, "adversarial estimate", protocol={"note": HOSTILE}),
            estimate("broken", float("nan")),
        ],
    )
    model = fakes.FakeModel(data.x_shape, 8, data.train.values.float() / 255)
    return path, write_report(run, model, data).read_text()


def test_the_page_asks_for_nothing_from_outside(full: tuple[Path, str]) -> None:
    page = Page(full[1])
    assert page.open == []
    assert len(page.asked) >= 12
    assert all(uri.startswith("data:image/png;base64,") for uri in page.asked)
    assert not re.search(r"url\(|@import|https?://|<link|<script", full[1])


def test_hostile_strings_are_shown_and_not_obeyed(full: tuple[Path, str]) -> None:
    page = Page(full[1])
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) >= 6


def test_estimates_carry_error_kind_count_and_protocol(full: tuple[Path, str]) -> None:
    text = " ".join(Page(full[1]).text.split())
    assert "iwae-64a,b −84.12 0.20 nats lower bound 180" in text
    assert re.search(r"a\s*draws 64", text)
    assert "elbo (critic)b −80.00 0.20 nats adversarial estimate: not a bound" in text
    assert "can exceed log p(x)" in text
    assert "broken not finite" in text
    assert "Common to all: split test" in text


def test_every_figure_is_a_whole_png_and_has_two_renderings(full: tuple[Path, str]) -> None:
    files = {file.stem: png_size(file.read_bytes()) for file in (full[0] / "figures").glob("*.png")}
    assert set(files) == {"samples", "reconstructions", "interpolations", "codes", "prior", "curves"}
    assert files["codes"][0] == files["curves"][0] == 1400
    assert files["samples"] == (16 * 80 + 15 * 8, 5 * 80 + 4 * 8)
    tags = Page(full[1]).tags
    assert tags.count("img") == tags.count("source") == len(files)
    assert len(set(Page(full[1]).asked)) >= 2 * len(files) - 2  # sheets without text look alike in both
    assert not list(full[0].rglob(".*"))  # nothing written aside is left


def test_the_facts_are_told(full: tuple[Path, str]) -> None:
    text = " ".join(Page(full[1]).text.split())
    for fact in ("1,437 train, 180 validation, 180 test", "39 steps of 128", "checksum 1a2b3c4d", "d = 8"):
        assert fact in text
    assert "520 parameters" in text  # 64 × 8 weights and 8 biases of the fake encoder
    assert f"advae.load({str(full[0])!r})" in text


def test_a_bare_run_of_vectors_has_a_report_that_says_what_is_missing(
    fakes: ModuleType, tmp_path: Path
) -> None:
    data = fakes.numbers(5)
    run, model = fakes.FakeRun(tmp_path), fakes.FakeModel((5,), 3, data.train.values)
    text = Page(write_report(run, model, data).read_text()).text
    assert "has not been evaluated yet" in text
    assert "No metrics were recorded" in text
    assert "Interpolations." not in text
    assert not (tmp_path / "figures" / "curves.png").exists()


def test_images_without_labels_or_test_split(fakes: ModuleType, tmp_path: Path) -> None:
    data = fakes.digits(labels=False)
    data.test.values = data.test.values[:0]
    run, model = fakes.FakeRun(tmp_path), fakes.FakeModel(data.x_shape, 2)
    text = Page(write_report(run, model, data).read_text()).text
    assert "by label" not in text
    assert "observations of the validation split" in text


def test_looking_at_a_model_changes_nothing_and_repeats(fakes: ModuleType) -> None:
    data, model = fakes.digits(), fakes.FakeModel((1, 8, 8), 4)
    model.train()
    state = torch.get_rng_state()
    first, second = study(model, data), study(model, data)
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    assert (first.codes == second.codes).all()
    assert first.codes.shape == (first.encoded * first.draws, 4)
    assert (first.labels[: first.encoded] == first.labels[first.encoded : 2 * first.encoded]).all()


def test_the_described_method_is_the_registered_one() -> None:
    from advae.report.run_summary import describe_method

    found = describe_method({"method": {"name": "avb"}})
    assert "Mescheder" in found.paper
    assert "algorithm 1" in found.notes
    assert describe_method({"method": {"name": "no-such-method"}}).summary == ""
