"""Latent-variable models: prior p(z), encoder q(z|x), decoder p(x|z), and their critics.

A model is saved as ``config.json`` (what to build) and ``model.safetensors`` (its weights). Loading runs no code from
the files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from advae.data import Dataset, Preprocessing, as_observations, preprocessing_from_dict
from advae.devices import default_torch_modes
from advae.distributions import HEADS, Distribution, Head, StandardNormal
from advae.distributions.normal import normal_from_raw
from advae.errors import CheckpointError, ConfigError, first_line
from advae.formatting import html_properties
from advae.io import PathLike, read_json, read_replaceable, recovered_folder, replaced_folder, to_json
from advae.networks import NETWORKS
from advae.networks.base import CriticInputs, NullNetwork, build_critic
from advae.networks.principal_components import PrincipalDecoder, PrincipalEncoder
from advae.random import seeded
from advae.serialization import check_no_pickle, download_model, is_hub_id, load_weights, save_tensors

if TYPE_CHECKING:
    from advae.evaluation.score import Scores

MODEL_FORMAT = 1
MODEL_CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


class Conditional(nn.Module):
    """A network and the head that makes its output a distribution: an encoder or a decoder."""

    network: nn.Module
    head: Head

    def __init__(self, network: nn.Module, head: Head) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, inputs: Tensor) -> Distribution:
        """Return the distribution given ``inputs [B, ...]``."""
        return self.head(self.network, inputs)


class LatentModel(nn.Module):
    """``p(z) p(x|z)`` with ``q(z|x)``; or, without an encoder, ``p(z) p(x|z)`` or ``p(x)`` alone.

    Args:
        encoder: from ``x [B, *x_shape]`` to a distribution over ``z [B, d]``; the network "none" for no encoder.
        decoder: from ``z [B, d]`` to a distribution over ``x [B, *x_shape]``. Encoder and decoder can be any module:
            a tensor ``[B, 2, *event]`` that it returns is mean and log scale of independent normals.
        x_shape: shape of one observation.
        latent_dim: ``d``; 0 for a model without latents.
        critics: the critics trained with them, by the role that a method gives them.
        critic_inputs: the inputs of each critic; needed for saving.
        spec: what :func:`build_model` built it from; needed for saving.
        info: JSON values saved with the model: recipe, method, data and preprocessing, step.

    Attributes:
        checksum: SHA-256 of the weights file that it was loaded from or last saved to; None for a new model.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        x_shape: Sequence[int],
        latent_dim: int,
        critics: dict[str, nn.Module] | None = None,
        critic_inputs: Mapping[str, CriticInputs] | None = None,
        spec: dict[str, Any] | None = None,
        info: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.critics = nn.ModuleDict(critics or {})
        self.critic_inputs: dict[str, CriticInputs] = dict(critic_inputs or {})
        self.x_shape, self.latent_dim = tuple(x_shape), latent_dim
        self.spec, self.info = spec, dict(info or {})
        self.checksum: str | None = None

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.parameters()).dtype

    @property
    def prior(self) -> StandardNormal:
        """``p(z) = N(0, I)``."""
        return StandardNormal(self.latent_dim, self.device, self.dtype)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """The preprocessing of the observations; None if the model does not record it."""
        description = (self.info.get("data") or {}).get("preprocessing")
        return preprocessing_from_dict(description) if description else None

    @property
    def column_names(self) -> tuple[str, ...] | None:
        """The names of the columns of a table; None for other observations."""
        names = (self.info.get("data") or {}).get("columns")
        return tuple(names) if names else None

    @property
    def has_encoder(self) -> bool:
        """Whether observations can be encoded."""
        return not isinstance(getattr(self.encoder, "network", None), NullNetwork)

    @property
    def likelihood_support(self) -> str | None:
        """The observations that p(x|z) can score ("real", "interval", "8-bit", …); None for a custom decoder."""
        return getattr(getattr(self.decoder, "head", None), "support", None)

    @torch.no_grad()
    def encoder_has_density(self) -> bool:
        """Return whether q(z|x) exists and has a density."""
        return self.has_encoder and self.encode(self._zeros(2, *self.x_shape)).has_log_prob

    @torch.no_grad()
    def decoder_has_density(self) -> bool:
        """Return whether p(x|z) has a density."""
        return self.decode(self._zeros(2, self.latent_dim)).has_log_prob

    def encode(self, x: Any) -> Distribution:
        """Return ``q(z|x)`` for ``x [B, *x_shape]``.

        Args:
            x: preprocessed observations, a floating-point tensor on the model's device; or stored examples (8-bit
                images, an array, a data frame), which are preprocessed as :func:`advae.data.as_observations` says.

        Raises:
            ConfigError: the observations have another shape, or the encoder returns something else than a distribution.
            UnsupportedError: the model has no encoder.
        """
        if not (isinstance(x, Tensor) and x.is_floating_point()):
            x = self._observations(x)
        if tuple(x.shape[1:]) != self.x_shape:
            is_single = x.dim() == len(self.x_shape)
            raise ConfigError(
                "Observations have the wrong shape.",
                given=list(x.shape),
                expected=["B", *self.x_shape],
                fix="add a batch axis to a single observation: x[None]" if is_single else None,
            )
        q = self.encoder(x)
        return q if isinstance(q, Distribution) else _as_normal(q, "encoder", (len(x), 2, self.latent_dim))

    def decode(self, z: Tensor) -> Distribution:
        """Return ``p(x|z)`` for ``z [B, d]``."""
        if z.shape[1:] != (self.latent_dim,):
            raise ConfigError(
                "Latents have the wrong shape.", given=list(z.shape), expected=["B", self.latent_dim]
            )
        p = self.decoder(z)
        return p if isinstance(p, Distribution) else _as_normal(p, "decoder", (len(z), 2, *self.x_shape))

    @torch.no_grad()
    def sample(self, n: int, *, seed: int | None = None, mean: bool = True, batch_size: int = 512) -> Tensor:
        """Sample ``n`` observations from the model, ``[n, *x_shape]``.

        Args:
            n: number of samples.
            seed: seed of the samples; the global random state is restored.
            mean: return the mean of p(x|z) at latents from the prior, as usual for figures, instead of a sample of
                p(x|z). Implicit and autoregressive decoders return a sample in either case.
            batch_size: number of samples decoded at once.
        """
        with seeded(seed, self.device):
            sizes = [min(batch_size, n - start) for start in range(0, n, batch_size)]
            batches = [self._decode_to_x(self.prior.rsample((size,)), mean) for size in sizes]
        return torch.cat(batches) if batches else torch.empty(0, *self.x_shape)

    @torch.no_grad()
    def reconstruct(self, x: Any, *, mean: bool = True, seed: int | None = None) -> Tensor:
        """Encode and decode ``x [B, *x_shape]``, ``[B, *x_shape]``: preprocessed (see :meth:`to_data_units`).

        Args:
            x: observations or stored examples, as for :meth:`encode`.
            mean: decode the mean of q(z|x) (estimated by samples if q is implicit) instead of one sample.
            seed: seed of the sample.
        """
        with seeded(seed, self.device):
            q = self.encode(self._observations(x))
            return self._decode_to_x(q.mean if mean else q.sample(), True)

    @torch.no_grad()
    def interpolate(self, a: Tensor, b: Tensor, steps: int = 8) -> Tensor:
        """Decode the arc between the latents of ``a`` and ``b [*x_shape]``, ``[steps, *x_shape]``.

        Spherical interpolation keeps the norms that latents have under the prior; a straight line would pass through
        smaller ones.
        """
        z = self.encode(torch.stack([a, b]).to(self.device)).mean
        return self._decode_to_x(slerp(z[0], z[1], steps), True)

    @torch.no_grad()
    def traverse(
        self, x: Tensor, dim: int, values: Sequence[float] | Tensor | None = None, *, steps: int = 9
    ) -> Tensor:
        """Decode the latent of one observation with one of its dimensions varied, ``[steps, *x_shape]``.

        Args:
            x: one preprocessed observation ``[*x_shape]``.
            dim: the latent dimension, from 0.
            values: its values; by default ``steps`` values from −3 to 3, the range of the prior.

        Raises:
            ConfigError: there is no such dimension.
        """
        if not 0 <= dim < self.latent_dim:
            raise ConfigError(
                "There is no such latent dimension.", given=dim, expected=f"0 to {self.latent_dim - 1}"
            )
        z = self.encode(x[None].to(self.device)).mean
        grid = torch.linspace(-3, 3, steps) if values is None else torch.as_tensor(values)
        z = z.repeat(len(grid), 1)
        z[:, dim] = grid.to(z)
        return self._decode_to_x(z, True)

    def score(self, x: Any, **options: Any) -> Scores:
        """Score single observations: a bound on log p(x), its standard error, and the reconstruction error.

        Args:
            x: observations or stored examples, as for :meth:`encode`.
            options: ``num_samples``, ``proposal`` and ``seed``, see :func:`advae.evaluation.score.score`.
        """
        from advae.evaluation.score import score

        return score(self, self._observations(x), **options)

    def to_data_units(self, x: Tensor) -> Tensor:
        """Map observations or decoder means to gray levels or, for tables, to the units of the data, ``[B, *x_shape]``.

        Raises:
            CheckpointError: the model does not record the preprocessing of its data.
        """
        if self.preprocessing is None:
            raise CheckpointError(
                "Model does not record the preprocessing of its data.",
                fix="save it with model.save_pretrained(folder, data=data), or build it with "
                "advae.build_model(…, data=data)",
            )
        return self.preprocessing.to_gray(x)

    def __repr__(self) -> str:
        method = (self.info.get("method") or {}).get("name")
        count = sum(p.numel() for p in self.parameters())
        shape = f"x_shape={self.x_shape}, latent_dim={self.latent_dim}, parameters={count:,}"
        return f"{type(self).__name__}({f'method={method!r}, ' if method else ''}{shape})"

    def _repr_html_(self) -> str:
        """Return a table for notebooks."""
        names = ("method", "recipe", "step")
        properties = {name: self.info[name] for name in names if isinstance(self.info.get(name), str | int)}
        networks = {"encoder": self.encoder, "decoder": self.decoder, "critics": self.critics}
        sizes = {
            f"{name} weights": f"{sum(p.numel() for p in net.parameters()):,}"
            for name, net in networks.items()
        }
        shapes = {"observations": self.x_shape, "latents": self.latent_dim}
        return html_properties(type(self).__name__, properties | shapes | sizes)

    def _observations(self, x: Any) -> Tensor:
        """Return observations on the model's device; stored examples are preprocessed."""
        if isinstance(x, Tensor) and x.dtype == self.dtype == torch.float64:
            return x.to(self.device)  # as_observations would round it
        return as_observations(x, self).to(self.device)

    def _decode_to_x(self, z: Tensor, mean: bool) -> Tensor:
        p = self.decode(z)
        return p.point_estimate() if mean else p.sample()

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(*shape, device=self.device, dtype=self.dtype)

    def save_pretrained(self, folder: PathLike, *, data: Dataset | None = None) -> None:
        """Write the model to a folder, atomically.

        Args:
            data: the data that it was trained on, whose preprocessing is recorded, so that commands can use the model.

        Raises:
            ConfigError: the model was not made by :func:`build_model`, so that no file could say how to rebuild it.
        """
        if self.spec is None:
            raise ConfigError(
                "Only models made by advae.build_model can be saved.",
                fix="use advae.build_model(spec, x_shape), naming your classes by import path",
            )
        if data is not None:
            self.info["data"] = data.describe()
        with replaced_folder(folder) as tmp_dir:
            checksum = save_tensors(tmp_dir / WEIGHTS_FILE, self.state_dict())
            config = {
                "format": MODEL_FORMAT,
                "x_shape": self.x_shape,
                "critics": self.critic_inputs,
                "spec": self.spec,
                "info": self.info,
                "sha256": checksum,
            }
            # Not by write_json, which would make a run directory again that was removed meanwhile.
            (tmp_dir / MODEL_CONFIG_FILE).write_text(to_json(config), encoding="utf-8")
        self.checksum = checksum

    @classmethod
    def from_pretrained(cls, folder: PathLike, device: torch.device | str = "cpu") -> LatentModel:
        """Load a model from a folder, or from the hub by its id, in evaluation mode.

        Raises:
            CheckpointError: the folder does not hold a model, or the model is corrupted or pickled.
        """
        path = recovered_folder(folder)
        if not path.exists() and is_hub_id(str(folder)):
            path = download_model(str(folder))
        return read_replaceable(path, cls._from_folder).to(device).eval()

    @classmethod
    def _from_folder(cls, path: Path) -> LatentModel:
        if not (path / MODEL_CONFIG_FILE).exists():
            check_no_pickle(path)
            files = f"a folder with {MODEL_CONFIG_FILE} and {WEIGHTS_FILE}"
            raise CheckpointError("This is not a saved model.", given=path, expected=files)
        config = read_json(path / MODEL_CONFIG_FILE)
        if not isinstance(config, dict) or config.get("format") != MODEL_FORMAT:
            raise CheckpointError("Model has an unknown format.", given=path / MODEL_CONFIG_FILE)
        try:
            model = build_model(config["spec"], config["x_shape"], config["critics"], config["info"])
        except (AttributeError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{MODEL_CONFIG_FILE} of the model is incomplete or was edited.", given=first_line(error)
            ) from None
        load_weights(model, path / WEIGHTS_FILE, config.get("sha256"))
        model.checksum = config.get("sha256")
        return model


@default_torch_modes()
def build_model(
    spec: dict[str, Any],
    x_shape: Sequence[int],
    critics: Mapping[str, CriticInputs] | Sequence[str] = (),
    info: dict[str, Any] | None = None,
    *,
    data: Dataset | None = None,
) -> LatentModel:
    """Build a model from its description.

    Args:
        spec: ``latent_dim`` and, as ``{"name": …, option: value}``: ``encoder`` and ``decoder`` (networks),
            ``posterior`` and ``likelihood`` (the distributions of their outputs), ``critic``. Without an encoder
            (``{"name": "none"}``) ``latent_dim`` may be 0. With ``skip: linear`` principal components are added to
            the outputs of both networks (:mod:`advae.networks.principal_components`).
        x_shape: shape of one observation.
        critics: the inputs of each critic by role, as ``method.critics``. Every critic has its own weights. Roles
            alone stand for critics of pairs (x, z) or, without an encoder, of x.
        info: see :class:`LatentModel`.
        data: the data that it will be trained on, whose description is recorded in ``info``.

    Raises:
        ConfigError: a component or option is unknown, or ``latent_dim`` is not positive.
    """
    d, has_encoder = spec["latent_dim"], spec["encoder"]["name"] != "none"
    if not isinstance(d, int) or d < has_encoder:
        raise ConfigError(
            "model.latent_dim must be a positive integer, or 0 without an encoder.",
            given=d,
            fix="set model.latent_dim, e.g. to 8",
        )
    x_shape, z_shape = tuple(x_shape), (d,)
    inputs_by_role: Mapping[str, CriticInputs]
    if isinstance(critics, Mapping):
        inputs_by_role = critics
    else:
        inputs_by_role = dict.fromkeys(critics, "x,z" if has_encoder else "x")
    posterior = HEADS.build(spec["posterior"], event_shape=z_shape)
    likelihood = HEADS.build(spec["likelihood"], event_shape=x_shape)
    encoder = NETWORKS.build(
        spec["encoder"],
        in_shape=x_shape,
        out_shape=(posterior.num_params, d),
        noise_dim=posterior.noise_dim,
    )
    decoder = NETWORKS.build(
        spec["decoder"],
        in_shape=z_shape,
        out_shape=(likelihood.num_params, *x_shape),
        noise_dim=likelihood.noise_dim,
    )
    if spec.get("skip", "none") == "linear":
        encoder = PrincipalEncoder(encoder, x_shape, (posterior.num_params, d), posterior.noise_dim)
        decoder = PrincipalDecoder(decoder, z_shape, (likelihood.num_params, *x_shape))
    return LatentModel(
        Conditional(encoder, posterior),
        Conditional(decoder, likelihood),
        x_shape=x_shape,
        latent_dim=d,
        critics={
            role: build_critic(spec["critic"], inputs, x_shape, z_shape)
            for role, inputs in inputs_by_role.items()
        },
        critic_inputs=inputs_by_role,
        spec=spec,
        info=(info or {}) | ({"data": data.describe()} if data is not None else {}),
    )


def _as_normal(raw: Any, part: str, shape: tuple[int, ...]) -> Distribution:
    """Return the normal whose mean and log scale a custom encoder or decoder returned."""
    if not (isinstance(raw, Tensor) and raw.shape == shape and raw.is_floating_point()):
        contract = f"a tensor [B, {', '.join(map(str, shape[1:]))}] with mean and log scale of a normal"
        raise ConfigError(
            f"The {part} returns neither a distribution nor the parameters of a normal.",
            given=list(raw.shape) if isinstance(raw, Tensor) else type(raw).__name__,
            expected=f"{contract}, or an advae.distributions.Distribution",
        )
    return normal_from_raw(raw)


def slerp(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Interpolate spherically between ``a [d]`` and ``b [d]``, ``[steps, d]``; linearly if they are parallel."""
    t = torch.linspace(0, 1, steps, device=a.device, dtype=a.dtype).unsqueeze(1)
    cosine = torch.dot(a, b) / (a.norm() * b.norm()).clamp_min(1e-8)
    angle = torch.arccos(cosine.clamp(-1, 1))
    if math.sin(float(angle)) < 1e-3:
        return (1 - t) * a + t * b
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
