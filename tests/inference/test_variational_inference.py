"""``infer``: reproducible, resumable, without side effects, and its run directory."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

import advae
from advae.errors import CheckpointError, WriteError
from advae.inference import HMCConfig, fit
from advae.inference import variational_inference as vi
from advae.inference.hmc_reference import sample_hmc
from advae.io import lock_folder
from advae.run import Run

TINY: dict[str, Any] = {
    "fits": 2,
    "steps": 10,
    "samples_per_step": 16,
    "hidden": (8,),
    "critic_width": 8,
    "quiet": True,
    "baselines": False,
}
SETTLE_STEPS = 2
PARAMETERS = {"mu": (), "tau": advae.positive, "eta": (2,)}


@pytest.fixture(autouse=True)
def few_locate_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "LOCATE_STEPS", 30)


def log_joint(mu: Tensor, tau: Tensor, eta: Tensor) -> Tensor:
    prior = Normal(0.0, 2.0).log_prob(mu) - tau + Normal(0.0, 1.0).log_prob(eta).sum(-1)
    return prior + Normal(mu + tau, 1.0).log_prob(torch.tensor(1.5).to(mu))


def pointwise_log_likelihood(mu: Tensor, tau: Tensor, eta: Tensor) -> Tensor:
    return Normal((mu + tau)[:, None], 1.0).log_prob(torch.tensor([1.5, 2.5]))


@pytest.fixture(scope="module")
def posteriors() -> dict[str, advae.Posterior]:
    """One posterior of each family, with seed 3."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "LOCATE_STEPS", 30)
        families = ("implicit", "noise-basis", "flow", "full-rank", "mean-field")
        return {f: advae.infer(log_joint, PARAMETERS, family=f, seed=3, **TINY) for f in families}


# --- random numbers and modes -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["implicit", "noise-basis", "flow", "full-rank"])
def test_the_seed_determines_the_posterior(family: str, posteriors: dict[str, advae.Posterior]) -> None:
    first = posteriors[family]
    again = advae.infer(log_joint, PARAMETERS, family=family, seed=3, **TINY)
    assert torch.equal(first.sample_unconstrained(5), again.sample_unconstrained(5))
    assert first.history == again.history
    other = advae.infer(log_joint, PARAMETERS, family=family, seed=4, **TINY)
    assert not torch.equal(first.sample_unconstrained(5), other.sample_unconstrained(5))


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode", "float64"])
@pytest.mark.parametrize("family", ["implicit", "noise-basis", "flow", "full-rank"])
def test_modes_of_the_caller_do_not_matter(
    family: str, mode: str, posteriors: dict[str, advae.Posterior]
) -> None:
    contexts = {
        "no_grad": torch.no_grad,
        "inference_mode": torch.inference_mode,
        "float64": torch.enable_grad,
    }
    if mode == "float64":
        torch.set_default_dtype(torch.float64)
    try:
        with contexts[mode]():
            posterior = advae.infer(log_joint, PARAMETERS, family=family, seed=3, **TINY)
            assert torch.is_inference_mode_enabled() == (mode == "inference_mode")
            assert torch.is_grad_enabled() == (mode == "float64")
        assert torch.get_default_dtype() == (torch.float64 if mode == "float64" else torch.float32)
    finally:
        torch.set_default_dtype(torch.float32)
    expected = posteriors[family].sample_unconstrained(5)
    torch.testing.assert_close(posterior.sample_unconstrained(5), expected, atol=1e-4, rtol=1e-3)


def test_the_global_random_state_is_unchanged() -> None:
    before = torch.get_rng_state()
    advae.infer(log_joint, PARAMETERS, **TINY).sample(3)
    assert torch.equal(before, torch.get_rng_state())


# --- samples ------------------------------------------------------------------------------------------------


def test_samples_have_names_shapes_and_chains() -> None:
    posterior = advae.infer(log_joint, PARAMETERS, dtype="float64", **TINY)
    sample = posterior.sample(7)
    assert {name: tuple(v.shape) for name, v in sample.items()} == {"mu": (7,), "tau": (7,), "eta": (7, 2)}
    assert sample["mu"].dtype == torch.float64
    assert bool((sample["tau"] > 0).all())
    assert posterior.sample(8, chains=True)["eta"].shape == (2, 4, 2)
    assert "implicit" in repr(posterior)
    with pytest.raises(advae.AdvaeError):
        posterior.sample(0)


def test_summary_has_a_row_per_component(posteriors: dict[str, advae.Posterior]) -> None:
    summary = posteriors["full-rank"].summary(100)
    assert list(summary) == ["mu", "tau", "eta[0]", "eta[1]"]
    for row in summary.values():
        assert row["5%"] < row["25%"] < row["50%"] < row["75%"] < row["95%"]


# --- checkpoints --------------------------------------------------------------------------------------------


class Stop(Exception):
    pass


@pytest.mark.parametrize("stop_at", [22, 37, 41], ids=["locate", "fit", "settle"])
@pytest.mark.parametrize("family", ["implicit", "full-rank"])
def test_a_resumed_fit_equals_an_uninterrupted_one(
    stop_at: int,
    family: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    posteriors: dict[str, advae.Posterior],
) -> None:
    if stop_at == 41 and family == "full-rank":
        pytest.skip("families with a density do not settle")
    options = {**TINY, "family": family, "seed": 3}
    monkeypatch.setattr(vi, "CHECKPOINT_INTERVAL", 4)
    monkeypatch.setattr(vi, "write_results", lambda *args: None)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        at_step(patch, stop_at, stop)
        advae.infer(log_joint, PARAMETERS, out=tmp_path / "run", **options)
    resumed = advae.infer(log_joint, PARAMETERS, out=tmp_path / "run", resume=True, **options)
    whole = posteriors[family]
    for expected, actual in zip(whole.sample_with_log_prob(5), resumed.sample_with_log_prob(5), strict=True):
        assert torch.equal(expected, actual)


def test_a_run_that_cannot_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vi, "write_results", lambda *args: None)
    options = {**TINY, "family": "mean-field"}
    advae.infer(log_joint, PARAMETERS, out=tmp_path / "run", **options)
    with lock_folder(tmp_path / "run"), pytest.raises(CheckpointError, match="process"):
        advae.infer(log_joint, PARAMETERS, out=tmp_path / "run", resume=True, **options)
    with pytest.raises(CheckpointError, match="seed"):
        advae.infer(log_joint, PARAMETERS, out=tmp_path / "run", resume=True, **{**options, "seed": 9})
    with pytest.raises(CheckpointError, match="not empty"):
        advae.infer(log_joint, PARAMETERS, out=tmp_path / "run", **options)


# --- faults -------------------------------------------------------------------------------------------------


def at_step(patch: pytest.MonkeyPatch, step: int, action: Callable[[], object]) -> None:
    """Let ``action`` happen before a step."""
    advance = fit.VariationalFit.advance

    def act_and_advance(self: fit.VariationalFit) -> None:
        if self.step == step:
            action()
        advance(self)

    patch.setattr(fit.VariationalFit, "advance", act_and_advance)


def fail_fsync(patch: pytest.MonkeyPatch) -> None:
    def fsync(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch.setattr(os, "fsync", fsync)


FAST: dict[str, Any] = {**TINY, "family": "mean-field", "seed": 3}


@pytest.fixture
def often_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vi, "CHECKPOINT_INTERVAL", 4)
    monkeypatch.setattr(vi, "LOG_INTERVAL", 2)
    monkeypatch.setattr(vi, "write_results", lambda *args: None)


def test_after_a_full_disk_the_last_checkpoint_is_resumed(
    tmp_path: Path, often_saved: None, posteriors: dict[str, advae.Posterior]
) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(WriteError) as error:
        at_step(patch, 35, lambda: fail_fsync(patch))
        advae.infer(log_joint, PARAMETERS, out=tmp_path / "run", **FAST)
    assert str(tmp_path / "run") in str(error.value)
    assert not list((tmp_path / "run").rglob(".*.new-*"))
    resumed = advae.infer(log_joint, PARAMETERS, out=tmp_path / "run", resume=True, **FAST)
    expected = posteriors["mean-field"].sample_unconstrained(5)
    assert torch.equal(resumed.sample_unconstrained(5), expected)


def test_results_are_complete_once_the_report_is_written(
    tmp_path: Path, often_saved: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report is the last file; a kill before it leaves the summary."""
    files = iter(["summary.json", "report.html"])
    monkeypatch.setattr(vi, "write_results", lambda run, *args: run.file(next(files)).touch())
    for resume in (False, True, True):  # the third call would have no file left
        advae.infer(log_joint, PARAMETERS, out=tmp_path / "run", resume=resume, **FAST)
    assert (tmp_path / "run" / "report.html").exists()


def test_a_removed_run_directory_is_noticed_and_not_made_again(
    tmp_path: Path, often_saved: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(monkeypatch, 35, lambda: shutil.rmtree(tmp_path / "run"))
    with pytest.raises(CheckpointError):
        advae.infer(log_joint, PARAMETERS, out=tmp_path / "run", **FAST)
    assert not (tmp_path / "run").exists()


def test_nothing_is_left_of_a_run_that_is_removed_while_a_checkpoint_is_written(
    tmp_path: Path, often_saved: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Run.file

    def file_of_removed_run(run: Run, *parts: str) -> Path:
        path = file(run, *parts)
        if parts[0] == "checkpoints":
            shutil.rmtree(run.path)
        return path

    monkeypatch.setattr(Run, "file", file_of_removed_run)
    with pytest.raises(CheckpointError):
        advae.infer(log_joint, PARAMETERS, out=tmp_path / "run", **FAST)
    assert not (tmp_path / "run").exists()


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    tmp_path: Path, often_saved: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for resume in (False, True):
        out = tmp_path / f"run-{resume}"
        with monkeypatch.context() as patch, pytest.raises(Stop):
            at_step(patch, 1, stop)
            advae.infer(log_joint, PARAMETERS, out=out, **FAST)
        advae.infer(log_joint, PARAMETERS, out=out, resume=resume, **FAST)
        assert Run.open(out).checkpoint().is_dir()


def stop() -> None:
    raise Stop


def test_diagnostics_do_not_depend_on_modes_of_the_caller(quick_annealing: None) -> None:
    def diagnose() -> list[float]:
        posterior = advae.infer(log_joint, PARAMETERS, **FAST)
        hmc = sample_hmc(posterior.target, HMCConfig(chains=4, warmup=16, samples=8, thin=1))
        return [*(estimate.value for estimate in posterior.check()), hmc.rhat]

    expected = diagnose()
    with torch.inference_mode():
        assert diagnose() == expected
    torch.set_default_dtype(torch.float64)
    try:
        # Some sums are then in float64.
        assert diagnose() == pytest.approx(expected, rel=1e-5)
    finally:
        torch.set_default_dtype(torch.float32)


# --- run directory ------------------------------------------------------------------------------------------


def test_the_run_directory(tmp_path: Path, quick_annealing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vi, "NUM_BASELINE_STEPS", 5)
    monkeypatch.setattr(vi, "LOG_INTERVAL", 5)
    posterior = advae.infer(
        log_joint,
        PARAMETERS,
        out=tmp_path / "run",
        reference=HMCConfig(chains=4, warmup=20, samples=10, thin=1),
        log_likelihood=pointwise_log_likelihood,
        **{**TINY, "baselines": True},
    )
    assert posterior.reference is not None and set(posterior.baselines) == {"mean-field", "full-rank"}
    run = advae.Run.open(tmp_path / "run")
    with np.load(run.path / "draws.npz", allow_pickle=False) as file:
        assert file["eta"].shape == (2, 2000, 2)
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["fits"] == 2 and set(summary["parameters"]) == {"mu", "tau", "eta[0]", "eta[1]"}
    assert summary["reference"]["samples"] == 40 and len(summary["elbo"]) == 2
    assert summary["reliable"] == (not any(remark["warning"] for remark in summary["remarks"]))
    metrics = {estimate["metric"] for estimate in run.estimates()}
    assert metrics >= {"ais", "rhat", "accuracy", "elbo", "ksd", "pareto-k", "evidence-gap"}
    assert run.metrics()[-1]["step"] == fit.LOCATE_STEPS + TINY["steps"] + SETTLE_STEPS
    page = (run.path / "report.html").read_text()
    assert "HMC" in page and "eta[1]" in page
    assert {path.stem for path in (run.path / "figures").iterdir()} >= {"marginals", "pairs", "bounds"}


def test_minibatches_estimate_the_sum_over_all_rows() -> None:
    """Mean of 400 numbers with a flat prior: N(mean, 1/400), from 40 rows per step.

    The means of 40 rows vary by 3 posterior standard deviations, which the average over steps reduces: over 16 seeds
    the largest error of the mean was 0.40 standard deviations, and of the standard deviation 6 %. Without the scale the
    standard deviation would be √10 times as large, and always from the same rows the mean would be off by about 3.
    """
    x = torch.randn(400, generator=torch.Generator().manual_seed(1)) + 2
    exact_sd = 0.05

    def log_joint(m: Tensor, *, x: Tensor, scale: float) -> Tensor:
        return scale * Normal(m[:, None], 1.0).log_prob(x).sum(-1)

    posterior = advae.infer(
        log_joint,
        {"m": ()},
        data={"x": x},
        minibatch_size=40,
        family="full-rank",
        steps=300,
        fits=2,
        samples_per_step=32,
        quiet=True,
    )
    m = posterior.sample(4000, chains=True)["m"]
    assert float((m.mean(1) - x.mean()).abs().max()) < exact_sd
    assert float((m.std(1) / exact_sd - 1).abs().max()) < 0.2
