"""Models: without an encoder, and under the caller's dtype and grad modes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from advae.distributions import HEADS
from advae.errors import ConfigError, UnsupportedError
from advae.methods import METHODS
from advae.model import LatentModel, build_model

MLP: dict[str, Any] = {"name": "mlp", "hidden": [5]}


def generator(latent: int = 3, encoder: str = "none") -> LatentModel:
    """Return a model of images of 1×2×3."""
    spec = {
        "latent_dim": latent,
        "encoder": {"name": encoder},
        "posterior": {"name": "normal"},
        "decoder": MLP,
        "likelihood": {"name": "bernoulli"},
        "critic": {"name": "concat", "hidden": [5]},
    }
    return build_model(spec, (1, 2, 3), ["critic"])


def test_sampling_scoring_and_saving_without_an_encoder(tmp_path: Path) -> None:
    model = generator()
    assert not model.has_encoder and model.decoder_has_density() and not model.encoder_has_density()
    assert model.sample(4, seed=1).shape == (4, 1, 2, 3)
    model.save_pretrained(tmp_path / "m")
    again = LatentModel.from_pretrained(tmp_path / "m")
    assert torch.equal(again.sample(4, seed=1), model.sample(4, seed=1))
    assert generator(encoder="mlp").has_encoder


@pytest.mark.parametrize("verb", ["encode", "reconstruct"])
def test_encoding_without_an_encoder_is_refused(verb: str) -> None:
    with pytest.raises(UnsupportedError):
        getattr(generator(), verb)(torch.zeros(2, 1, 2, 3))
    with pytest.raises(UnsupportedError):
        generator().interpolate(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))


def test_its_critic_has_observations_as_only_input() -> None:
    critic = generator().critics["critic"]
    assert critic(torch.zeros(2, 1, 2, 3), torch.zeros(2, 0)).shape == (2,)
    with pytest.raises(RuntimeError):
        critic(torch.zeros(2, 1, 2, 3), torch.zeros(2, 3))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")  # the layer on an empty latent
def test_without_an_encoder_the_latent_may_be_empty() -> None:
    model = generator(latent=0)
    log_p = model.decode(model.prior.rsample((4,))).log_prob(torch.ones(4, 1, 2, 3))
    assert log_p.shape == (4,) and bool((log_p == log_p[0]).all())  # the same p(x) for all
    with pytest.raises(ConfigError):
        generator(latent=0, encoder="mlp")
    with pytest.raises(ConfigError):
        generator(latent=-1)


def test_methods_refuse_a_model_without_the_encoder_they_train() -> None:
    with pytest.raises(ConfigError):
        METHODS.build({"name": "vae"}).check(generator())


@pytest.mark.parametrize("support", ["bernoulli", "normal"])
def test_likelihood_support_is_that_of_the_head(support: str) -> None:
    model = generator()
    spec = {**(model.spec or {}), "likelihood": {"name": support}}
    assert build_model(spec, (1, 2, 3)).likelihood_support == HEADS.find(support).support
    model.decoder = nn.Linear(1, 1)
    assert model.likelihood_support is None


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_models_are_float32_and_trainable_whatever_the_caller_set(
    mode: Any, double: None, tmp_path: Path
) -> None:
    with mode():
        model = generator(encoder="mlp")
        model.save_pretrained(tmp_path / "m")
        loaded = LatentModel.from_pretrained(tmp_path / "m")
        assert (
            loaded.sample(2).dtype
            == loaded.reconstruct(torch.zeros(2, 1, 2, 3).float()).dtype
            == torch.float32
        )
    for each in (model, loaded):
        parameters = list(each.parameters())
        assert {p.dtype for p in parameters} == {torch.float32}
        each.encode(torch.zeros(2, 1, 2, 3).float()).mean.sum().backward()  # type: ignore[no-untyped-call]
        assert any(p.grad is not None for p in parameters)
