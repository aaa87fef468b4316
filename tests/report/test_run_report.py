"""Run report: complete, self-contained, safe against hostile strings, and explicit about missing parts."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from advae.report import write_report
from advae.report.html import png_size
from advae.report.run_summary import describe_method

HOSTILE = "<script>alert('x')</script> & $\\frac{ \"q\""
N = 40


class Page(HTMLParser):
    """Tags, requested resources and text of a page; tags must be closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.resources: list[str] = []
        self.open_tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        loading = {"src", "href", "srcset", "action", "data", "poster"}
        self.resources += [value or "" for name, value in attrs if name in loading]
        if tag not in {"meta", "img", "source", "br"}:
            self.open_tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag
        self.text += " " if tag in {"td", "th", "caption"} else ""

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open_tags):
            self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


@pytest.fixture(scope="module")
def hostile_run(fakes: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A report of a run with a hostile string wherever a user can write one."""
    path = tmp_path_factory.mktemp("runs") / "run"
    path.mkdir()
    data = fakes.make_digits()
    data.name = HOSTILE
    run = fakes.FakeRun(
        path,
        config={"recipe": HOSTILE, "seed": 3, "method": {"name": HOSTILE}, "train": {"batch_size": 128}},
        env={"versions": {"torch": HOSTILE}, "device": "cpu"},
        command=f"advae train {HOSTILE}",
        metric_lines=[
            {"step": s, "time": s, "train/kl": 1.0 / s, f"train/{HOSTILE}": 1.0} for s in range(1, 40)
        ],
        estimate_dicts=[
            fakes.make_estimate(
                "iwae-64",
                -84.1234,
                "lower bound",
                "likelihood",
                stderr=0.2,
                split="test",
                samples=64,
                note=HOSTILE,
            ),
            fakes.make_estimate(
                "elbo (critic)", -80.0, "adversarial estimate", "likelihood", split="test", note=HOSTILE
            ),
            fakes.make_estimate("broken", float("nan"), "error", "samples", split="test"),
        ],
    )
    model = fakes.FakeModel(data.x_shape, 8, data.train.values.float() / 255)
    return path, write_report(run, model, data).read_text()


def test_the_page_requests_nothing_from_outside(hostile_run: tuple[Path, str]) -> None:
    page = Page(hostile_run[1])
    assert page.open_tags == []
    assert len(page.resources) >= 12
    assert all(uri.startswith("data:image/png;base64,") for uri in page.resources)
    assert not re.search(r"url\(|@import|https?://|<link|<script", hostile_run[1])


def test_hostile_strings_are_escaped(hostile_run: tuple[Path, str]) -> None:
    page = Page(hostile_run[1])
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) >= 6


def test_estimates_have_error_kind_count_and_protocol(hostile_run: tuple[Path, str]) -> None:
    text = Page(hostile_run[1]).words
    assert "iwae-64a −84.12 ± 0.20 nats lower bound 100" in text
    assert re.search(r"a\s*samples 64", text)
    assert "elbo (critic) −80.00 ± 0.10 nats adversarial estimate: not a bound" in text
    assert "broken not finite" in text
    assert "split test" in text


def test_every_figure_is_a_png_with_two_versions(hostile_run: tuple[Path, str]) -> None:
    path, html = hostile_run
    sizes = {file.stem: png_size(file.read_bytes()) for file in (path / "figures").glob("*.png")}
    assert set(sizes) == {"samples", "reconstructions", "interpolations", "latents", "prior", "curves"}
    assert sizes["latents"][0] == sizes["curves"][0] == 1400
    assert sizes["samples"] == (16 * 80 + 15 * 8, 5 * 80 + 4 * 8)
    tags = Page(html).tags
    assert tags.count("img") == tags.count("source") == len(sizes)
    assert len(set(Page(html).resources)) >= 2 * len(sizes) - 2  # grids without text are the same in both
    assert not list(path.rglob(".*"))  # no temporary files


def test_model_data_and_training_are_summarized(hostile_run: tuple[Path, str]) -> None:
    text = Page(hostile_run[1]).words
    facts = (
        "1,437 train, 180 validation, 180 test",
        "39 steps, batch size 128",
        "checksum 1a2b3c4d",
        "d = 8",
    )
    for fact in (*facts, "520 parameters"):  # 64 × 8 weights and 8 biases of the encoder
        assert fact in text
    assert f"advae.load({str(hostile_run[0])!r})" in text


@pytest.mark.usefixtures("without_figures")
def test_missing_parts_of_a_run_of_vectors_are_left_out(fakes: ModuleType, tmp_path: Path) -> None:
    data = fakes.make_vectors(5)
    run, model = fakes.FakeRun(tmp_path), fakes.FakeModel((5,), 3, data.train.values)
    text = Page(write_report(run, model, data).read_text()).text
    assert "advae evaluate" in text
    assert "No metrics" in text
    assert "Interpolations." not in text
    assert "Training curves." not in text


@pytest.mark.usefixtures("without_figures")
def test_images_without_labels_or_test_split(fakes: ModuleType, tmp_path: Path) -> None:
    data = fakes.make_digits(labels=False)
    data.test.values = data.test.values[:0]
    run, model = fakes.FakeRun(tmp_path), fakes.FakeModel(data.x_shape, 2)
    text = Page(write_report(run, model, data).read_text()).words
    assert "by label" not in text
    assert "observations of the validation split" in text


@pytest.fixture(scope="module")
def evaluated_run(fakes: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A report with estimates in several sections, remarks and per-image arrays."""
    path, data = tmp_path_factory.mktemp("runs") / "run", fakes.make_digits()
    rng = np.random.default_rng(0)
    (path / "eval").mkdir(parents=True)
    np.savez(path / "eval" / "ais.npz", ess=rng.uniform(1, 16, N), acceptance=rng.uniform(size=N))
    np.savez(path / "eval" / "inference-gap-full-normal.npz", value=rng.gamma(2, size=N))
    pairs = {"samples": rng.integers(200, 256, (16, 1, 8, 8)), "nearest": rng.integers(0, 100, (16, 1, 8, 8))}
    np.savez(path / "eval" / "memorization-digits-classifier.npz", **pairs)
    fid = {"metric": "fid", "unit": "", "n": N, "value": 1.5}
    gap = {"metric": "inference-gap", "n": N}
    estimates = [
        fakes.make_estimate("FID[digits-classifier]", **fid, interval=[1.31, 1.69], split="test"),
        fakes.make_estimate("ais", 1.5, "lower bound", "likelihood", n=N, split="test", chains=16),
        fakes.make_estimate("FID[digits-classifier] of test data", kind="baseline", **fid, split="test"),
        fakes.make_estimate(
            "memorization[digits-classifier]", 1.5, "diagnostic", metric="memorization", n=2000, split="test"
        ),
        fakes.make_estimate(
            "inference gap[full-normal]", 1.5, "lower bound", "posterior", **gap, split="test"
        ),
        fakes.make_estimate("saturation of critic", 1.5, "diagnostic", "critics", n=N, split="test"),
    ]
    criterion = {
        "name": "calibration error",
        "value": 0.2,
        "threshold": 0.05,
        "passed": False,
        "limit": "max",
    }
    remarks = [
        fakes.make_remark("critics", "Unreliable <b>critic</b>.", True, criteria=[criterion]),
        fakes.make_remark("samples", "No sign of memorization."),
    ]
    run = fakes.FakeRun(path, estimate_dicts=estimates, remark_dicts=remarks)
    model = fakes.FakeModel(data.x_shape, 2, data.train.values.float() / 255)
    return path, write_report(run, model, data).read_text()


def test_sections_are_in_order(evaluated_run: tuple[Path, str]) -> None:
    text = Page(evaluated_run[1]).words
    text = text[text.index("Table 2.") :]
    positions = [text.index(f" {title} ") for title in ("Likelihood", "Posterior", "Critics", "Samples")]
    assert positions == sorted(positions)
    fid = text.index("FID[digits-classifier] 1.50 ± 0.10 [1.31, 1.69] error 40")
    assert 0 < text.index("FID[digits-classifier] of test data 1.50 ± 0.10 baseline 40") - fid < 80
    assert "Common to all: split test" in text
    assert "higher is better" not in text  # of scores, which do not occur


def test_warnings_are_set_apart_with_their_criteria(evaluated_run: tuple[Path, str]) -> None:
    _, html = evaluated_run
    warning = re.search(r'<p class="warning">.*?</p>', html, re.DOTALL)
    assert warning is not None
    assert "Unreliable &lt;b&gt;critic&lt;/b&gt;." in warning[0]
    text = Page(html).words
    assert text.index("calibration error 0.2 ≤ 0.05 no") > text.index("Unreliable")
    assert "<details" in html[warning.end() : warning.end() + 80]
    assert "No sign of memorization." in text


def test_per_image_figures_have_files(evaluated_run: tuple[Path, str]) -> None:
    path, html = evaluated_run
    for name in ("ais", "inference-gap-full-normal", "memorization-digits-classifier", "posteriors"):
        assert (path / "figures" / f"{name}.png").exists()
    pixels = np.asarray(Image.open(path / "figures" / "memorization-digits-classifier.png").convert("L"))
    assert pixels[5, -5] >= 200  # samples above
    assert "16 chains" in html and f"{N} examples" in html


@pytest.mark.usefixtures("without_figures")
def test_a_table_has_errors_per_column_and_no_words_of_images(fakes: ModuleType, tmp_path: Path) -> None:
    data, names = fakes.make_vectors(3), ("height", "<b>width</b>", "price, $")
    data.column_names = names
    (tmp_path / "eval").mkdir()
    for name, values in {"rmse": [0.1, 0.2, 0.3], "rmse-pca-2": [0.4, 0.5, 0.6]}.items():
        np.savez(tmp_path / "eval" / f"{name}.npz", columns=np.array(values))
    of_table = {"metric": "rmse", "unit": "standard deviations", "section": "reconstruction"}
    run = fakes.FakeRun(
        tmp_path,
        estimate_dicts=[
            fakes.make_estimate("rmse", 0.31, **of_table),
            fakes.make_estimate("rmse (PCA-2)", 0.35, "baseline", variant="PCA-2", **of_table),
        ],
    )
    html = write_report(run, fakes.FakeModel((3,), 2, data.train.values), data).read_text()
    text = Page(html).words
    assert "<b>width" not in html
    assert "height 0.1 0.4 0.1" in text and "<b>width</b> 0.2 0.5" in text and "price, $ 0.3 0.6" in text
    assert "0.31 ± 0.10 standard deviations" in text and re.search(r"latents \(2\): 0\.35", text)
    assert not re.search(r"\b(images?|pixels?)\b", text)


def test_what_matters_comes_first_and_the_rest_is_folded(evaluated_run: tuple[Path, str]) -> None:
    html = evaluated_run[1]
    details = html.index("<h2>Details</h2>")
    places = [html.index(f"<{tag}") for tag in ('dl class="headlines"', 'p class="warning"', "h2>Samples")]
    places += [html.index(title) for title in ("<h2>Reconstructions", "<h2>Latent space")]
    assert places == sorted(places) and places[-1] < details
    for folded in ("Model and training", "Estimates", "Training curves", "Usage"):
        assert html.index(f"<details><summary>{folded}</summary>") > details
    assert html.count("<h2>") == 4


def test_the_method_is_described_by_its_registered_class() -> None:
    method = describe_method({"method": {"name": "avb"}})
    assert "Mescheder" in method.paper
    assert method.notes and method.players
    for known, critics in {"f1": {"f1", "f2"}, "marginals": {"d_x", "d_z"}}.items():
        method = describe_method({"method": {"name": "asvae", "known": known}})
        assert set(method.players) == {"model"} | critics
    assert describe_method({"method": {"name": "avb", "kl_warmup": -1}}).players is None
    assert describe_method({"method": {"name": "no-such-method"}}).summary == ""
