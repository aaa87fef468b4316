"""Models without an encoder: what they can do, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from advae.errors import ConfigError, UnsupportedError
from advae.methods import METHODS
from advae.model import LatentModel, build_model

MLP: dict[str, Any] = {"name": "mlp", "hidden": [5]}


def generator(latent: int = 3, encoder: str = "none") -> LatentModel:
    """Draws, or scores, images of 1×2×3."""
    spec = {
        "latent_dim": latent,
        "encoder": {"name": encoder},
        "posterior": {"name": "normal"},
        "decoder": MLP,
        "likelihood": {"name": "bernoulli"},
        "critic": {"name": "concat", "hidden": [5]},
    }
    return build_model(spec, (1, 2, 3), ["critic"])


def test_it_samples_scores_and_travels(tmp_path: Any) -> None:
    model = generator()
    assert not model.has_encoder and model.decoder_has_density() and not model.encoder_has_density()
    assert model.sample(4, seed=1).shape == (4, 1, 2, 3)
    model.save_pretrained(tmp_path / "m")
    again = LatentModel.from_pretrained(tmp_path / "m")
    assert torch.equal(again.sample(4, seed=1), model.sample(4, seed=1))
    assert generator(encoder="mlp").has_encoder


@pytest.mark.parametrize("verb", ["encode", "reconstruct"])
def test_it_has_no_codes(verb: str) -> None:
    with pytest.raises(UnsupportedError, match="no encoder"):
        getattr(generator(), verb)(torch.zeros(2, 1, 2, 3))
    with pytest.raises(UnsupportedError, match="no encoder"):
        generator().interpolate(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))


def test_its_critic_sees_observations_alone() -> None:
    critic = generator().critics["critic"]
    assert critic(torch.zeros(2, 1, 2, 3), torch.zeros(2, 0)).shape == (2,)
    with pytest.raises(RuntimeError):
        critic(torch.zeros(2, 1, 2, 3), torch.zeros(2, 3))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")  # the layer on a code of no numbers
def test_without_an_encoder_codes_may_be_empty() -> None:
    model = generator(latent=0)
    log_p = model.decode(model.prior.rsample((4,))).log_prob(torch.ones(4, 1, 2, 3))
    assert log_p.shape == (4,) and bool((log_p == log_p[0]).all())  # no code: the same p(x) for all
    with pytest.raises(ConfigError, match="latent size"):
        generator(latent=0, encoder="mlp")
    with pytest.raises(ConfigError, match="latent size"):
        generator(latent=-1)


def test_methods_refuse_a_model_that_is_not_theirs() -> None:
    with pytest.raises(ConfigError, match="trains an encoder"):
        METHODS.build({"name": "vae"}).check(generator())
