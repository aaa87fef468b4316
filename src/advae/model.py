"""A latent-variable model: a prior p(z), an encoder q(z|x) and a decoder p(x|z), and the critics trained with them.

Saved as ``config.json`` (what to build) and ``model.safetensors`` (its weights): loading runs no code of the file's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from advae.distributions import HEADS, Distribution, Head, StandardNormal
from advae.errors import CheckpointError, ConfigError
from advae.io import digest, read_json, recovered_folder, replaced_folder, write_json
from advae.networks import CRITICS, NETWORKS
from advae.networks.none import NoNetwork

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
PICKLED = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")


class Conditional(nn.Module):
    """A network and what its output means: an encoder or a decoder."""

    def __init__(self, network: nn.Module, head: Head) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, inputs: Tensor) -> Distribution:
        """The distribution given ``inputs [B, ...]``."""
        return self.head(self.network, inputs)


class LatentModel(nn.Module):
    """``p(z) p(x|z)`` with ``q(z|x)``; or, without an encoder, ``p(z) p(x|z)`` or ``p(x)`` alone.

    Args:
        encoder: ``x [B, *x_shape]`` to a distribution over ``z [B, d]``; the network "none" where there is none.
        decoder: ``z [B, d]`` to a distribution over ``x [B, *x_shape]``.
        x_shape: shape of one observation.
        latent: ``d``, the length of a code; 0 for a model of observations without codes.
        critics: the critics trained beside them, by the role that a method gives them.
        spec: what :func:`build_model` made it from; needed for saving.
        info: what else should travel with it (recipe, method, data protocol, step), as JSON values.

    Attributes:
        checksum: of the weights as they were loaded; None if they were not.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        x_shape: Sequence[int],
        latent: int,
        critics: dict[str, nn.Module] | None = None,
        spec: dict[str, Any] | None = None,
        info: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.critics = nn.ModuleDict(critics or {})
        self.x_shape, self.latent = tuple(x_shape), latent
        self.spec, self.info = spec, dict(info or {})
        self.checksum: str | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def prior(self) -> StandardNormal:
        """``p(z) = N(0, I)``."""
        return StandardNormal(self.latent, self.device)

    @property
    def has_encoder(self) -> bool:
        """Whether observations can be encoded."""
        return not isinstance(getattr(self.encoder, "network", None), NoNetwork)

    @torch.no_grad()
    def encoder_has_density(self) -> bool:
        """Whether there is a q(z|x) with a density, not known by its draws only."""
        return (
            self.has_encoder and self.encode(torch.zeros(2, *self.x_shape, device=self.device)).has_log_prob
        )

    @torch.no_grad()
    def decoder_has_density(self) -> bool:
        """Whether p(x|z) has a density, or is known by its draws only."""
        return self.decode(torch.zeros(2, self.latent, device=self.device)).has_log_prob

    def encode(self, x: Tensor) -> Distribution:
        """``q(z|x)`` for ``x [B, *x_shape]``.

        Raises:
            ConfigError: the observations have another shape.
            UnsupportedError: the model has no encoder.
        """
        if tuple(x.shape[1:]) != self.x_shape:
            raise ConfigError(
                "observations have the wrong shape",
                given=list(x.shape),
                expected=["B", *self.x_shape],
                remedy="a single observation needs a batch axis: x[None]"
                if x.dim() == len(self.x_shape)
                else None,
            )
        return self.encoder(x)

    def decode(self, z: Tensor) -> Distribution:
        """``p(x|z)`` for ``z [B, d]``."""
        if z.shape[1:] != (self.latent,):
            raise ConfigError("codes have the wrong shape", given=list(z.shape), expected=["B", self.latent])
        return self.decoder(z)

    @torch.no_grad()
    def sample(self, n: int, *, seed: int | None = None, mean: bool = True, batch: int = 512) -> Tensor:
        """Observations from the model, ``[n, *x_shape]``.

        Args:
            n: how many.
            seed: for the same ones again; the global random state is left as it was.
            mean: the mean of p(x|z) at codes from the prior, as samples are usually shown, instead of a draw
                from it. An implicit or autoregressive decoder gives a draw either way.
            batch: how many at a time.
        """
        with seeded(seed, self.device):
            sizes = [min(batch, n - start) for start in range(0, n, batch)]
            parts = [self._observe(self.prior.rsample((size,)), mean) for size in sizes]
        return torch.cat(parts) if parts else torch.empty(0, *self.x_shape)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, *, mean: bool = True, seed: int | None = None) -> Tensor:
        """``x [B, *x_shape]`` encoded and decoded, ``[B, *x_shape]``.

        Args:
            x: observations in the data's observation protocol.
            mean: decode the mean of q(z|x) (for an implicit encoder, of draws from it), not one draw.
            seed: for the same draw again.
        """
        with seeded(seed, self.device):
            q = self.encode(x.to(self.device))
            return self._observe(q.mean if mean else q.sample(), True)

    @torch.no_grad()
    def interpolate(self, a: Tensor, b: Tensor, steps: int = 8) -> Tensor:
        """From observation ``a [*x_shape]`` to ``b [*x_shape]`` along the arc between their codes, ``[steps, …]``.

        The arc (spherical interpolation) keeps to lengths that codes from the prior have; a straight line
        would pass through shorter ones.
        """
        z = self.encode(torch.stack([a, b]).to(self.device)).mean
        return self._observe(slerp(z[0], z[1], steps), True)

    def _observe(self, z: Tensor, mean: bool) -> Tensor:
        p = self.decode(z)
        return representative(p) if mean else p.sample()

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the model to a folder, whole or not at all.

        Raises:
            ConfigError: the model was put together by hand, so that no file could say how to rebuild it.
        """
        if self.spec is None:
            raise ConfigError(
                "this model was put together from modules by hand and has no description to save",
                remedy="make it with advae.build_model(spec, x_shape), naming your classes by import path",
            )
        with replaced_folder(folder) as aside:
            save_file({k: v.contiguous() for k, v in self.state_dict().items()}, aside / WEIGHTS)
            config = {
                "format": FORMAT,
                "x_shape": self.x_shape,
                "critics": list(self.critics),
                "spec": self.spec,
                "info": self.info,
                "sha256": digest(aside / WEIGHTS),
            }
            write_json(aside / CONFIG, config)

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], device: torch.device | str = "cpu"
    ) -> LatentModel:
        """Read a model from a folder, or from the hub by its id, in evaluation mode.

        Raises:
            CheckpointError: the folder is no model, is damaged, or holds pickled code.
        """
        path = recovered_folder(folder)
        if not path.exists() and is_hub_id(str(folder)):
            path = download(str(folder))
        if not (path / CONFIG).exists():
            refuse_pickles(path)
            raise CheckpointError(
                "this is not a saved model", given=path, expected=f"a folder with {CONFIG} and {WEIGHTS}"
            )
        config = read_json(path / CONFIG)
        if not isinstance(config, dict) or config.get("format") != FORMAT:
            raise CheckpointError("the model's config.json is of another format", given=path / CONFIG)
        try:
            model = build_model(config["spec"], config["x_shape"], config["critics"], config["info"])
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                "the model's config.json was edited or is incomplete", given=error
            ) from None
        load_weights(model, path / WEIGHTS, config.get("sha256"))
        model.checksum = config.get("sha256")
        return model.to(device).eval()


def build_model(
    spec: dict[str, Any],
    x_shape: Sequence[int],
    critics: Sequence[str] = (),
    info: dict[str, Any] | None = None,
) -> LatentModel:
    """A model from its description.

    Args:
        spec: ``latent`` and, as ``{"name": …, option: value}``: ``encoder`` and ``decoder`` (networks),
            ``posterior`` and ``likelihood`` (what their outputs mean), ``critic``. Without an encoder
            (``{"name": "none"}``) ``latent`` may be 0, and critics see observations alone.
        x_shape: shape of one observation.
        critics: the roles that need a critic; each gets its own weights.
        info: see :class:`LatentModel`.

    Raises:
        ConfigError: a component or option is unknown, or the latent size is not positive.
    """
    d, encodes = spec["latent"], spec["encoder"]["name"] != "none"
    if not isinstance(d, int) or d < encodes:
        raise ConfigError(
            "the latent size must be a positive whole number, or 0 without an encoder",
            given=d,
            remedy="set model.latent, e.g. to 8",
        )
    x_shape, z_shape = tuple(x_shape), (d,)
    seen = {"x_shape": x_shape, "z_shape": z_shape if encodes else (0,)}
    posterior = HEADS.build(spec["posterior"], event_shape=z_shape)
    likelihood = HEADS.build(spec["likelihood"], event_shape=x_shape)
    encoder = NETWORKS.build(
        spec["encoder"], in_shape=x_shape, out_shape=(posterior.values, d), noise=posterior.noise
    )
    decoder = NETWORKS.build(
        spec["decoder"], in_shape=z_shape, out_shape=(likelihood.values, *x_shape), noise=likelihood.noise
    )
    return LatentModel(
        Conditional(encoder, posterior),
        Conditional(decoder, likelihood),
        x_shape=x_shape,
        latent=d,
        critics={role: CRITICS.build(spec["critic"], **seen) for role in critics},
        spec=spec,
        info=info,
    )


def representative(distribution: Distribution) -> Tensor:
    """One value to stand for a distribution: its mean, or a draw where it is implicit or of pixels one by one."""
    return distribution.representative()


def slerp(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Spherical interpolation between codes ``a [d]`` and ``b [d]``, ``[steps, d]``; straight if they are parallel."""
    t = torch.linspace(0, 1, steps, device=a.device).unsqueeze(1)
    cosine = torch.dot(a, b) / (a.norm() * b.norm()).clamp_min(1e-8)
    angle = torch.arccos(cosine.clamp(-1, 1))
    if math.sin(float(angle)) < 1e-3:
        return (1 - t) * a + t * b
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


@contextmanager
def seeded(seed: int | None, device: torch.device | str) -> Iterator[None]:
    """Run with the random state of ``seed``, then put the old state back; with None, as it is."""
    if seed is None:
        yield
        return
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def load_weights(module: nn.Module, path: Path, sha256: str | None) -> None:
    """Read safetensors with this checksum into a module that must fit them exactly.

    Raises:
        CheckpointError: the file is missing, cut short, edited, or has other tensors than the module.
    """
    refuse_pickles(path)
    try:
        if digest(path) != sha256:
            raise CheckpointError(
                "the weights are damaged: their checksum is wrong",
                given=path,
                remedy="the file was cut short or edited",
            )
        module.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise CheckpointError("the weights are missing", given=path) from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            "the weights cannot be read", given=f"{path}: {error}", remedy="the file was cut short or edited"
        ) from None
    except RuntimeError as error:
        raise CheckpointError("the weights do not fit the model", given=f"{path}: {error}") from None


def refuse_pickles(path: Path) -> None:
    """Refuse a file, or a folder of files, that only unpickling could read: it could run any code."""
    files = [path] if path.is_file() else sorted(path.glob("*")) if path.is_dir() else []
    for file in files:
        if file.suffix.lower() in PICKLED:
            raise CheckpointError(
                "this holds pickled code, which advae never loads",
                given=file,
                expected="safetensors and JSON",
                remedy="convert it with the program that wrote it",
            )


def is_hub_id(text: str) -> bool:
    """Whether ``text`` has the form ``owner/name``."""
    parts = text.split("/")
    return len(parts) == 2 and all(parts) and not text.startswith(".")


def download(hub_id: str) -> Path:
    """The folder of a model from the hub: its JSON and safetensors files only."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:
        raise CheckpointError(
            "there is no such folder, and the hub did not give a model of this name",
            given=f"{hub_id}: {type(error).__name__}",
            remedy="check the path or id, and the network",
        ) from None
