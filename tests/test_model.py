"""Models: without an encoder, and under the caller's dtype and grad modes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from advae.distributions import HEADS
from advae.errors import AdvaeError, CheckpointError, ConfigError, UnsupportedError
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


class Encoder(nn.Module):
    """An encoder of one's own: mean and log scale of a normal, or something that does not fit."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.linear, self.output = nn.Linear(4, 4), output

    def forward(self, x: torch.Tensor) -> Any:
        return self.output(self.linear(x))


def with_own_encoder(output: Any) -> LatentModel:
    """Return a model of vectors whose encoder and decoder are plain modules."""
    decoder = nn.Sequential(nn.Linear(2, 8), nn.Unflatten(1, (2, 4)))
    return LatentModel(Encoder(output), decoder, x_shape=(4,), latent_dim=2)


def test_plain_modules_are_encoders_and_decoders() -> None:
    model = with_own_encoder(lambda h: h.unflatten(1, (2, 2)))
    x = torch.randn(5, 4)
    q = model.encode(x)
    assert q.rsample().shape == (5, 2) and q.log_prob(torch.zeros(5, 2)).shape == (5,)
    assert model.score(x).log_prob.isfinite().all()  # type: ignore[union-attr]


@pytest.mark.parametrize("output", [lambda h: h, lambda h: (h, h), lambda h: h.unflatten(1, (2, 2)).int()])
def test_modules_that_do_not_fit_are_refused_with_the_contract(output: Any) -> None:
    with pytest.raises(ConfigError, match=r"\[B, 2, 2\]"):
        with_own_encoder(output).encode(torch.zeros(3, 4))


class Gray:
    """What a model records of data."""

    @staticmethod
    def describe() -> dict[str, Any]:
        return {"preprocessing": {"name": "gray"}, "columns": None}


def test_stored_examples_are_preprocessed_as_the_model_records(tmp_path: Path) -> None:
    """8-bit tensors, arrays and preprocessed observations give the same latents, also after saving."""
    built = generator(encoder="mlp")
    with pytest.raises(AdvaeError):
        built.encode(torch.zeros(2, 1, 2, 3, dtype=torch.uint8))
    built.save_pretrained(tmp_path / "m", data=Gray())  # type: ignore[arg-type]
    raw = torch.randint(0, 256, (2, 1, 2, 3), dtype=torch.uint8)
    for model in (built, LatentModel.from_pretrained(tmp_path / "m")):
        expected = model.encode(raw / 255).mean
        for x in (raw, raw.numpy(), raw.numpy()[:, 0]):
            assert torch.equal(model.encode(x).mean, expected)
            assert torch.equal(model.reconstruct(x), model.reconstruct(raw / 255))
            assert torch.equal(model.score(x).rmse, model.score(raw / 255).rmse)
        assert torch.equal(model.to_data_units(torch.ones(1)), torch.full((1,), 255.0))
    spec = built.spec or {}
    assert build_model(spec, (1, 2, 3), data=Gray()).preprocessing is not None  # type: ignore[arg-type]
    with pytest.raises(CheckpointError):
        generator().to_data_units(torch.ones(1))


def test_encoding_observations_reads_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training step encodes on the device: reading a value would make the host wait."""
    model = generator(encoder="mlp")
    x = torch.rand(2, 1, 2, 3)

    def refuse(*args: object) -> None:
        raise AssertionError("a value is read")

    for name in ("item", "__bool__", "__float__", "tolist", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    assert model.decode(model.encode(x).rsample()).batch_shape == (2,)


def test_traversal_varies_one_latent() -> None:
    model = generator(encoder="mlp")
    x = torch.rand(1, 2, 3)
    z = model.encode(x[None]).mean
    decoded = model.traverse(x, 1, [-1.0, 0.5])
    for value, image in zip((-1.0, 0.5), decoded, strict=True):
        moved = z.clone()
        moved[0, 1] = value
        torch.testing.assert_close(image, model.decode(moved).point_estimate()[0])
    assert model.traverse(x, 0).shape == (9, 1, 2, 3)
    with pytest.raises(ConfigError):
        model.traverse(x, 3)


def test_notebooks_show_a_table_of_plain_text() -> None:
    model = generator()
    model.info["recipe"] = "<script>"
    page = model._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page and str(model.x_shape) in page


def test_repr_is_one_line() -> None:
    text = repr(generator())
    assert "\n" not in text and "x_shape=(1, 2, 3)" in text and "latent_dim=3" in text
