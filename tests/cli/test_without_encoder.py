"""The verbs on models that only draw samples, or only score: what works looks right, the rest is refused in words."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from advae.cli import main
from advae.data import DataOptions, load_data
from advae.report.comparison import gather_samples
from advae.report.figure_data import study
from advae.run import Run

pytestmark = pytest.mark.filterwarnings(
    "ignore:Initializing zero-element tensors"
)  # a layer on a code of no numbers

TINY = (
    *(
        "--train.batch",
        "16",
        "--train.log_every",
        "3",
        "--train.validate_every",
        "6",
        "--train.samples_every",
        "0",
    ),
    *("--data.limit", "120"),
)
GAN = ("--model.decoder.width", "4", "--model.critic", "{name: dcgan, width: 4, norm: batch}", *TINY)
WGAN = (
    *("--method", "wgan-gp", "--method.critic_steps", "2", "--method.order", "alternating"),
    *("--model.decoder.width", "4", "--model.critic", "{name: dcgan, width: 4, norm: layer}", *TINY),
)


def made(folder: Path, options: tuple[str, ...]) -> Path:
    out = folder / "run"
    assert (
        main(["train", "gan-digits-dcgan", "--out", str(out), "--train.steps", "6", "--quiet", *options]) == 0
    )
    return out


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("gan"), GAN)


@pytest.fixture(scope="module")
def wgan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("wgan"), WGAN)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of observations without codes: every pixel by itself, trained by maximum likelihood."""
    out = tmp_path_factory.mktemp("scorer") / "run"
    parts = (
        *("--method", "mle", "--model.latent", "0", "--model.encoder", "none"),
        *(
            "--model.decoder",
            "{name: mlp, hidden: []}",
            "--data.protocol",
            "grey",
            "--model.likelihood",
            "bernoulli",
        ),
    )
    argv = ["train", "vae-digits", "--out", str(out), "--train.steps", "6", "--quiet", *parts, *TINY]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the layer on a code of no numbers
        assert main(argv) == 0
    return out


class Text(HTMLParser):
    """What a page says, without figures and tags; and its headings."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.said, self.headings, self.within = list[str](), list[str](), ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.within = tag

    def handle_data(self, data: str) -> None:
        if self.within not in ("style", "script"):
            self.said.append(data.strip())
        if self.within == "h2" and data.strip():
            self.headings.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())


def page_of(run: Path) -> Text:
    return Text((run / "report.html").read_text())


@pytest.mark.parametrize("verb", ["encode", "reconstruct", "interpolate"])
@pytest.mark.parametrize("which", ["gan", "scorer"])
def test_what_needs_codes_is_refused(
    which: str, verb: str, request: pytest.FixtureRequest, advae: Any, tmp_path: Path
) -> None:
    """Before any data are read: the run's data need not be there."""
    run = request.getfixturevalue(which)
    before = sorted(str(path) for path in run.rglob("*"))
    answer = advae(verb, run, "--data.source", tmp_path / "gone", "--out", tmp_path / "x.npz")
    method = {"gan": "gan", "scorer": "mle"}[which]
    assert (answer.code, answer.out) == (2, "")
    lines = answer.err.splitlines()
    assert lines[0] == f"advae: advae {verb} needs an encoder, and this model has none"
    assert f"trained by {method}" in lines[1] and "advae sample" in lines[2]
    assert sorted(str(path) for path in run.rglob("*")) == before and not (tmp_path / "x.npz").exists()


@pytest.mark.parametrize(
    ("which", "options", "words"),
    [
        ("gan", ("--likelihood", "elbo"), ("no density", "fid")),
        ("gan", ("--likelihood", "exact"), ("no density", "fid")),
        ("gan", ("--likelihood", "ais"), ("no density", "fid")),
        ("gan", ("--checks", "posterior"), ("no encoder|this model has none", "fid")),
        ("wgan", ("--checks", "posterior,critics"), ("this model has none", "fid")),
        ("scorer", ("--likelihood", "exact,elbo"), ("need an encoder", "ask for exact")),
        ("scorer", ("--likelihood", "ais"), ("over codes", "ask for exact")),
        ("scorer", ("--checks", "critics"), ("no critics",)),
    ],
)
def test_figures_that_cannot_be_are_refused_by_name(
    which: str, options: tuple[str, ...], words: tuple[str, ...], request: pytest.FixtureRequest, advae: Any
) -> None:
    run = request.getfixturevalue(which)
    before = (run / "eval" / "estimates.json").read_bytes()
    answer = advae("evaluate", run, *options)
    assert (answer.code, answer.out) == (2, "") and "Traceback" not in answer.err
    assert all(re.search(word, answer.err) for word in words), answer.err
    assert (run / "eval" / "estimates.json").read_bytes() == before


def test_evaluate_gives_what_can_be_given(
    gan: Path, wgan: Path, scorer: Path, advae: Any, tmp_path: Path
) -> None:
    found = {}
    for name, run in {"gan": gan, "wgan": wgan, "scorer": scorer}.items():
        copied = shutil.copytree(run, tmp_path / name)
        answer = advae("evaluate", copied, "--json")
        assert answer.code == 0, answer.err
        found[name] = json.loads(answer.out)
    names = {key: {e["name"] for e in value["estimates"]} for key, value in found.items()}
    assert "claimed KL[critic]" in names["gan"]
    assert names["wgan"] == {
        *("accuracy[critic]", "accuracy[critic] on train", "distance[critic]", "slope[critic]")
    }
    assert names["scorer"] == {"exact log-likelihood"}
    for value in found.values():
        assert any("no encoder" in remark["text"] for remark in value["remarks"])
    table = advae("evaluate", tmp_path / "wgan").out
    assert "no log ratio" in table and "has no likelihood" in table


def test_samples_are_judged(gan: Path, advae: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVAE_CACHE", str(tmp_path / "cache"))
    run = shutil.copytree(gan, tmp_path / "run")
    answer = advae("evaluate", run, "--samples", "kid", "--checks", "none", "--generated", 20, "--json")
    assert answer.code == 0, answer.err
    (kid,) = [e for e in json.loads(answer.out)["estimates"] if e["name"] == "KID[digits-classifier]"]
    assert kid["protocol"]["judged"] == "draws from p(x|z) at codes from the prior" and kid["n"] == 20


def test_samples(gan: Path, scorer: Path, advae: Any, tmp_path: Path) -> None:
    """A generator's are a function of the code: those of one seed are the same. A scorer's are draws, not its mean."""
    for run in (gan, scorer):
        files = [tmp_path / f"{run.parent.name}-{i}.npz" for i in range(2)]
        for file, more in zip(files, ((), ("--draw",)), strict=True):
            assert advae("sample", run, "-n", 5, "--out", file, *more).code == 0
        first, again = (np.load(file)["x"] for file in files)
        assert first.shape == (5, 1, 8, 8) and (first == again).all()
        assert (first[0] != first[1]).any()
    assert set(np.unique(first)) == {0.0, 1.0}
    assert advae("sample", gan, "--out", tmp_path / "sheet.png").code == 0
    assert min(Image.open(tmp_path / "sheet.png").size) > 100


def test_the_page_of_a_gan(gan: Path, advae: Any, tmp_path: Path) -> None:
    run = shutil.copytree(gan, tmp_path / "run")
    assert advae("report", run).code == 0
    page = page_of(run)
    assert page.headings == [
        "What was trained, and how", "Estimates", "Training", "How to use this model", "Appendix",
    ]  # fmt: skip
    assert "A latent-variable model without an encoder, trained by gan" in page.text
    assert "Draws from p(x|z) at codes z drawn from the prior; not selected" in page.text
    assert "to set beside the samples" in page.text
    assert "Evaluated; no figure here ranks models" in page.text and "Not evaluated" not in page.text
    assert "model.encode" not in page.text and "advae interpolate" not in page.text
    assert "z → x → z" not in page.text  # errors of codes that there are none of
    figures = {path.name for path in (run / "figures").iterdir()}
    assert figures == {"samples.png", "observations.png", "curves.png"}
    facts = dict(
        re.findall(r'<th scope="row">(.*?)</th>\s*<td[^>]*>(.*?)</td>', (run / "report.html").read_text())
    )
    assert facts["encoder"] == "none" and facts["latent"].startswith("d = 16")


def test_the_page_of_a_scorer(scorer: Path) -> None:
    page = page_of(scorer)
    assert "A model of observations, without codes, trained by mle" in page.text
    assert "Draws from p(x); not selected" in page.text
    assert "Measured: exact log-likelihood" in page.text
    assert "p.log_prob(x)" in page.text and "The latent space" not in page.headings
    facts = dict(
        re.findall(r'<th scope="row">(.*?)</th>\s*<td[^>]*>(.*?)</td>', (scorer / "report.html").read_text())
    )
    assert facts["encoder"] == facts["latent"] == "none"


def test_pages_show_draws_of_a_scorer_and_not_its_mean(scorer: Path) -> None:
    """Of binary pixels every draw is black and white; the mean is grey, and one for all."""
    run = Run.open(scorer)
    seen = study(run.model(), load_data(DataOptions(**run.config["data"])))
    beside, silent = gather_samples([run], ["scorer"])
    assert set(np.unique(seen.samples)) == set(np.unique(beside["scorer"])) == {0.0, 255.0} and silent == []
    assert seen.codes is None and seen.reconstructions is None and seen.paths is None


def test_compared_with_a_vae(gan: Path, scorer: Path, trained: Path, advae: Any, tmp_path: Path) -> None:
    answer = advae("compare", gan, scorer, trained, "--out", tmp_path / "page", "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert len(told["runs"]) == 3 and Path(told["page"]).is_file()
    names = {line["name"] for line in told["lines"]}
    assert {"exact log-likelihood", "elbo", "accuracy[critic]"} <= names
    assert (tmp_path / "page" / "compare-samples.png").is_file()


def test_train_ends_with_what_there_is(gan: Path, advae: Any, tmp_path: Path) -> None:
    config = gan / "config.yaml"
    answer = advae("train", "--config", config, "--out", tmp_path / "run")
    assert answer.code == 0, answer.err
    assert "accuracy[critic]" in answer.out and "no likelihood" in answer.out
    assert (
        advae("train", "--config", config, "--dry-run").out.count("model moves decoder; critic moves critic")
        == 1
    )
    assert "train.patience" in advae("train", "--config", config, "--train.patience", 3, "--dry-run").err


@pytest.mark.parametrize("which", ["gan", "wgan"])
def test_resumed_it_is_the_same(
    which: str, request: pytest.FixtureRequest, advae: Any, tmp_path: Path
) -> None:
    """Generator, critic with its batch statistics, and both optimisers."""
    whole: Path = request.getfixturevalue(which)
    out = tmp_path / "run"
    argv = ("--out", out, "--no-report", "--quiet", "--train.steps", 2)
    assert advae("train", "--config", whole / "config.yaml", *argv).code == 0
    assert advae("train", "--resume", out, "--train.steps", 6, "--no-report", "--quiet").code == 0
    state = "checkpoints/last/state.safetensors"
    assert (out / state).read_bytes() == (whole / state).read_bytes()


def test_methods_and_models_that_do_not_go_together(advae: Any) -> None:
    answer = advae("train", "gan-digits-dcgan", "--method", "vae", "--dry-run")
    assert answer.code == 2 and "trains an encoder" in answer.err
    answer = advae("train", "vae-digits", "--method", "gan", "--dry-run")
    assert answer.code == 2 and "model.encoder to none" in answer.err
    answer = advae("train", "gan-digits-dcgan", "--data.protocol", "standardise", "--dry-run")
    assert answer.code == 2 and "squash" in answer.err
