"""A run of inference: the same for the same seed, the same after an interruption, and what it leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

import advae
from advae.errors import CheckpointError
from advae.inference import fit
from advae.inference import variational_inference as start
from advae.inference.hmc_reference import HMC
from advae.io import held

TINY: dict[str, Any] = {
    "fits": 2,
    "steps": 40,
    "batch": 16,
    "hidden": (8,),
    "critic_width": 8,
    "quiet": True,
    "baselines": False,
}


def log_joint(mu: Tensor, tau: Tensor, eta: Tensor) -> Tensor:
    prior = Normal(0.0, 2.0).log_prob(mu) - tau + Normal(0.0, 1.0).log_prob(eta).sum(-1)
    return prior + Normal(mu + tau, 1.0).log_prob(torch.tensor(1.5).to(mu))


PARAMETERS = {"mu": (), "tau": advae.positive, "eta": (2,)}


def draws(posterior: advae.Posterior) -> Tensor:
    return posterior.unconstrained(5)


@pytest.mark.parametrize("family", ["implicit", "noise-basis", "flow", "full-rank"])
def test_one_seed_gives_one_posterior(family: str) -> None:
    a, b = (advae.infer(log_joint, PARAMETERS, family=family, seed=3, **TINY) for _ in range(2))
    assert torch.equal(draws(a), draws(b))
    assert a.history == b.history
    other = advae.infer(log_joint, PARAMETERS, family=family, seed=4, **TINY)
    assert not torch.equal(draws(a), draws(other))


def test_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    advae.infer(log_joint, PARAMETERS, **TINY).sample(3)
    assert torch.equal(before, torch.get_rng_state())


def test_draws_have_names_shapes_and_chains() -> None:
    posterior = advae.infer(log_joint, PARAMETERS, dtype="float64", **TINY)
    sample = posterior.sample(7)
    assert {name: tuple(value.shape) for name, value in sample.items()} == {
        "mu": (7,),
        "tau": (7,),
        "eta": (7, 2),
    }
    assert sample["mu"].dtype == torch.float64
    assert bool((sample["tau"] > 0).all())
    assert posterior.sample(8, chains=True)["eta"].shape == (2, 4, 2)
    assert "implicit" in repr(posterior)
    assert set(posterior.summary(100)) == {"mu", "tau", "eta[0]", "eta[1]"}


class Stop(Exception):
    pass


@pytest.mark.parametrize("at", [60, 170, 195])  # while it locates, fits and settles
@pytest.mark.parametrize("family", ["implicit", "full-rank"])
def test_resumed_as_if_it_had_not_stopped(
    at: int, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**TINY, "family": family, "seed": 2}
    if at > fit.LOCATE + TINY["steps"] and family == "full-rank":
        pytest.skip("families with a density do not settle")
    whole = advae.infer(log_joint, PARAMETERS, **options)
    monkeypatch.setattr(start, "CHECKPOINT_EVERY", 10)
    monkeypatch.setattr(start, "write_results", lambda *given: None)
    advance = fit.Fit.advance

    def stopping(self: fit.Fit) -> None:
        if self.step == at:
            raise Stop
        advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(fit.Fit, "advance", stopping)
        with pytest.raises(Stop):
            advae.infer(log_joint, PARAMETERS, out=tmp_path / "run", **options)
    resumed = advae.infer(log_joint, PARAMETERS, out=tmp_path / "run", resume=True, **options)
    assert torch.equal(draws(whole), draws(resumed))
    assert torch.equal(whole.drawn(5)[1], resumed.drawn(5)[1])
    with held(tmp_path / "run"), pytest.raises(CheckpointError, match="another process"):
        advae.infer(log_joint, PARAMETERS, out=tmp_path / "run", resume=True, **options)
    with pytest.raises(CheckpointError, match="as it was configured"):
        advae.infer(log_joint, PARAMETERS, out=tmp_path / "run", resume=True, **{**options, "seed": 9})
    with pytest.raises(CheckpointError, match="not empty"):
        advae.infer(log_joint, PARAMETERS, out=tmp_path / "run", **options)


def test_a_run_directory(tmp_path: Path, quick_annealing: None) -> None:
    chains = HMC(chains=4, warmup=20, draws=10, thin=1)

    def log_likelihood(mu: Tensor, tau: Tensor, eta: Tensor) -> Tensor:
        return Normal((mu + tau)[:, None], 1.0).log_prob(torch.tensor([1.5, 2.5]))

    posterior = advae.infer(
        log_joint,
        PARAMETERS,
        out=tmp_path / "run",
        reference=chains,
        log_likelihood=log_likelihood,
        **{**TINY, "baselines": True},
    )
    run = advae.Run.open(tmp_path / "run")
    with np.load(run.path / "draws.npz", allow_pickle=False) as file:
        assert file["eta"].shape == (2, 2000, 2)
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["fits"] == 2 and set(summary["parameters"]) == {"mu", "tau", "eta[0]", "eta[1]"}
    assert summary["reference"]["draws"] == 40
    assert {e["name"] for e in run.estimates()} >= {
        "log evidence (ais)",
        "R-hat between fits",
        "accuracy[critic]",
    }
    assert run.metrics()[-1]["step"] == fit.LOCATE + 40 + 8
    page = (run.path / "report.html").read_text()
    for words in (
        "Marginals.",
        "Pairs.",
        "The bound over the steps.",
        "Whether to trust it",
        "HMC mean",
        "eta[1]",
    ):
        assert words in page
    assert posterior.reference is not None and set(posterior.baselines) == {"mean-field", "full-rank"}


def test_netcdf_opens_in_arviz(tmp_path: Path) -> None:
    """By its own reader, whichever major version is installed; and the same groups in memory."""
    arviz = pytest.importorskip("arviz")
    pytest.importorskip("h5netcdf")
    from advae.inference.export import groups, write_netcdf

    def log_likelihood(mu: Tensor, tau: Tensor, eta: Tensor) -> Tensor:
        return Normal((mu + tau)[:, None], 1.0).log_prob(torch.tensor([1.5, 2.5, 0.5]))

    posterior = advae.infer(log_joint, PARAMETERS, log_likelihood=log_likelihood, **TINY)
    found = groups(posterior, 10)
    write_netcdf(tmp_path / "draws.nc", found, {"inference_library": "advae"})
    opened, held = arviz.from_netcdf(str(tmp_path / "draws.nc")), posterior.to_arviz(10)
    tree = pytest.importorskip("xarray").open_datatree(
        tmp_path / "draws.nc"
    )  # what ArviZ from version 1 on reads it by
    for data in (opened, held, tree):
        assert data["posterior"]["eta"].dims[:2] == ("chain", "draw")
        np.testing.assert_allclose(np.asarray(data["posterior"]["eta"]), found["posterior"]["eta"])
        np.testing.assert_allclose(np.asarray(data["sample_stats"]["lp"]), found["sample_stats"]["lp"])
        assert np.asarray(data["log_likelihood"]["y"]).shape == (2, 5, 3)
    assert list(arviz.summary(opened).index) == ["mu", "tau", "eta[0]", "eta[1]"]


def test_a_minibatch_stands_for_all_rows() -> None:
    """A mean of 400 numbers with a flat prior: N(mean, 1/400), from 40 rows a step.

    The moments are those of the data within a third of a standard deviation: the noise of minibatches, which is
    3 standard deviations in every step, is averaged over some hundred. Without the scale the deviation would be √10
    times as large.
    """
    x = torch.randn(400, generator=torch.Generator().manual_seed(1)) + 2

    def log_joint(m: Tensor, *, x: Tensor, scale: float) -> Tensor:
        return scale * Normal(m[:, None], 1.0).log_prob(x).sum(-1)

    posterior = advae.infer(
        log_joint,
        {"m": ()},
        data={"x": x},
        minibatch=40,
        family="full-rank",
        steps=600,
        fits=2,
        batch=32,
        quiet=True,
    )
    m = posterior.sample(4000, chains=True)["m"]
    assert float((m.mean(1) - x.mean()).abs().max()) < 0.05 / 3
    assert float((m.std(1) / 0.05 - 1).abs().max()) < 0.15
