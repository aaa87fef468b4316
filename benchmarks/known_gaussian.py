"""Linear-Gaussian data of ``linear_gaussian.py``, and errors of a model relative to their closed forms.

    z ~ N(0, I)        latents                             [d = 2]
    x = W z + σ ε      observations, then standardized     [n = 20]

All references are exact. Samples are used only for a posterior without a density: its moments then have a sampling
error, and its entropy is estimated by nearest neighbors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.special import digamma
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

import advae
from advae.methods import METHODS

D, N, NUM_EXAMPLES = 2, 20, 120_000
SIGNAL = (
    0.474  # fraction of every feature's unit variance: posterior standard deviations of about 1/4 and 1/2
)
NUM_EVALUATED, NUM_LATENTS = (
    128,
    16_384,
)  # standard deviations from so many latents err by 1/√(2·16,384) = 0.55 %
NEIGHBOR = 4  # whose distance gives the entropy estimate
REPEATS = 512  # latents per x for the critic's estimate
EYE = torch.eye(D, dtype=torch.float64)


@dataclass(frozen=True)
class Linear:
    """``z ~ N(0, I) [d]``, ``x | z ~ N(W z + b, S) [n]``, in float64.

    The posterior is ``N(A (x − b), C)`` with ``C = (I + Wᵀ S⁻¹ W)⁻¹`` and ``A = C Wᵀ S⁻¹``.
    """

    W: Tensor
    b: Tensor
    S: Tensor

    @property
    def C(self) -> Tensor:
        """Covariance of every posterior, ``[d, d]``."""
        return torch.linalg.inv(EYE + self.W.T @ torch.linalg.solve(self.S, self.W))

    def mean(self, x: Tensor) -> Tensor:
        """Posterior means of ``x [B, n]``, ``[B, d]``."""
        return (x.double() - self.b) @ (self.C @ torch.linalg.solve(self.S, self.W).T).T

    @property
    def evidence(self) -> MultivariateNormal:
        """``N(b, W Wᵀ + S)``."""
        return MultivariateNormal(self.b, self.W @ self.W.T + self.S)

    def standardized(self, mean: Tensor, std: Tensor) -> Linear:
        """Return the model of ``(x − mean) / std``."""
        mean, std = mean.double(), std.double()
        return Linear(self.W / std[:, None], (self.b - mean) / std, self.S / (std[:, None] * std))

    def rotation_to(self, like: Linear) -> Tensor:
        """Return the orthogonal ``R [d, d]`` of latents, ``z ↦ R z``, that brings this model nearest to ``like``.

        The prior is isotropic, so data determine a model only up to a rotation or reflection.
        """
        U, _, V = torch.linalg.svd(like.W.T @ torch.linalg.solve(like.S, self.W))
        return U @ V


def truth() -> tuple[Linear, np.random.Generator]:
    """Return the model of the data, in which every feature has variance 1, and the generator for sampling.

    Rows of W have equal lengths and directions near one oblique axis, so the posterior is elongated and correlated.
    """
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((N, D)) @ np.array([[1.6, 0.6], [0.0, 0.7]])
    W = math.sqrt(SIGNAL) * rows / np.linalg.norm(rows, axis=1, keepdims=True)
    S = (1 - SIGNAL) * torch.eye(N, dtype=torch.float64)
    return Linear(torch.from_numpy(W), torch.zeros(N, dtype=torch.float64), S), rng


def make_data(folder: Path) -> Path:
    """Return the file of the data; sample and write it if it does not exist."""
    path = folder / "data.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        model, rng = truth()
        signal = rng.standard_normal((NUM_EXAMPLES, D)) @ model.W.numpy().T
        noise = math.sqrt(1 - SIGNAL) * rng.standard_normal((NUM_EXAMPLES, N))
        np.save(path, (signal + noise).astype(np.float32))
    return path


def linear_decoder(model: Any) -> Linear:
    """Return the linear-Gaussian model of a linear decoder; also of an implicit one, whose input is z and noise."""
    layer = model.decoder.network.body[0]
    weight, b = layer.weight.detach().double(), layer.bias.detach().double()
    W, rest = weight[:, :D], weight[:, D:]
    if rest.numel():
        return Linear(W, b, rest @ rest.T)
    scale = model.decode(torch.zeros(1, D)).scale[0].detach().double()
    return Linear(W, b, torch.diag(scale.square()))


# --- measurements -------------------------------------------------------------------------------------------


@torch.no_grad()
def sample_latents(model: Any, x: Tensor, count: int) -> Tensor:
    """Return ``count`` latents of each ``x [B, n]``, ``[count, B, d]`` in float64."""
    parts = [model.encode(x).sample((256,)) for _ in range(count // 256)]
    return torch.cat(parts).double()


@torch.no_grad()
def moments(model: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean ``[B, d]``, covariance ``[B, d, d]`` and negentropy ``KL(q ‖ N(mean, cov)) [B]`` of q(z|x)."""
    q = model.encode(x)
    if q.has_log_prob:
        mean, cov = (moment.double() for moment in q.moments(full=True))
        return mean, cov, torch.zeros(len(x), dtype=torch.float64)
    z = sample_latents(model, x, NUM_LATENTS)
    mean, cov = z.mean(0), torch.stack([torch.cov(q_z.T) for q_z in z.unbind(1)])
    return mean, cov, torch.tensor([negentropy(q_z.numpy()) for q_z in z.unbind(1)])


def negentropy(z: np.ndarray) -> float:
    """Return ``KL(q ‖ N)`` of samples ``z [K, d]`` of q and the normal with their moments, in nats.

    By distances ρ of the whitened samples to the k-th neighbor: ``H ≈ ψ(K) − ψ(k) + log c + d E log ρ``, c the unit
    ball's volume (Kozachenko and Leonenko 1987). For 16,384 samples of a normal it gives 0.002 ± 0.005 instead of 0.
    """
    count, d = z.shape
    white = np.linalg.solve(np.linalg.cholesky(np.cov(z.T)), (z - z.mean(0)).T).T
    rho = cKDTree(white).query(white, NEIGHBOR + 1)[0][:, -1]  # the nearest is the sample itself
    ball = 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d + 1)
    entropy = digamma(count) - digamma(NEIGHBOR) + ball + d * np.log(rho).mean()
    return float(0.5 * d * (1 + math.log(2 * math.pi)) - entropy)


def distance(mean: Tensor, cov: Tensor, exact: Linear, x: Tensor) -> dict[str, Any]:
    """Return distances of ``N(mean [B, d], cov [B, d, d])`` from the exact posterior at ``x [B, n]``.

    std: |σ_q/σ − 1| along each principal axis of the exact posterior, the mean over x, of the axis where it is
    larger. mean: the root mean square of the means' difference in exact standard deviations, over x and axes.
    cov: the Frobenius norm of the covariances' difference as a share of the exact one's, the mean over x.
    """
    C = exact.C
    variances, axes = torch.linalg.eigh(C)
    ratio = torch.einsum("ia,bij,ja->ba", axes, cov, axes).sqrt() / variances.sqrt()
    shift = (mean - exact.mean(x)) @ axes / variances.sqrt()
    return {
        "std": float((ratio - 1).abs().mean(0).max()),
        "std_ratio": ratio.mean(0).tolist(),
        "mean": float(shift.square().mean().sqrt()),
        "cov": float(((cov - C).flatten(1).norm(dim=1) / C.norm()).mean()),
    }


def critic_estimate(model: Any, x: Tensor, key: str) -> float:
    """Return the mean of a diagnostic of the method over ``REPEATS`` latents per x."""
    method = METHODS.build(model.info["method"])
    with torch.no_grad():
        parts = [
            method.losses(model, x.repeat(32, 1)).diagnostics[key].double().mean()
            for _ in range(REPEATS // 32)
        ]
    return float(torch.stack(parts).mean())


def measure(run: Any) -> dict[str, Any]:
    """Return all measurements of one run."""
    torch.manual_seed(0)  # for the latents sampled below
    model, data = run.model(), advae.load_data(advae.DataOptions(**run.config["data"]))
    exact, own = (
        truth()[0].standardized(data.preprocessing.mean, data.preprocessing.std),
        linear_decoder(model),
    )
    held_out = data.preprocessing.apply(data.test.values)
    x = held_out[:NUM_EVALUATED]
    mean, cov, non_normality = moments(model, x)
    R = own.rotation_to(exact)
    posterior = MultivariateNormal(own.mean(x), own.C)
    prior = MultivariateNormal(torch.zeros_like(mean), EYE)
    normal, kl = MultivariateNormal(mean, cov), kl_divergence
    gap, rate = (
        float((kl(normal, posterior) + non_normality).mean()),
        float((kl(normal, prior) + non_normality).mean()),
    )
    log_p, log_true = (m.evidence.log_prob(held_out.double()) for m in (own, exact))
    values: dict[str, Any] = {
        "own": distance(mean, cov, own, x),
        "true": distance(mean @ R.T, R @ cov @ R.T, exact, x),
        "own_std": torch.linalg.eigvalsh(own.C).sqrt().tolist(),
        "evidence_gap": float(kl(exact.evidence, own.evidence)),
        "held_out": {
            "evidence": float(log_p.mean()),
            "true_evidence": float(log_true.mean()),
            "difference": float((log_true - log_p).mean()),
            "stderr": float((log_true - log_p).std() / math.sqrt(len(log_p))),
        },
        "inference_gap": gap,
        "elbo": float(log_p[:NUM_EVALUATED].mean()) - gap,
        "negentropy": float(non_normality.mean()),
        "kl": rate,
        "exact_kl": float(kl(MultivariateNormal(exact.mean(x), exact.C), prior).mean()),
    }
    return values | {
        "critic": critic_error(model, x, rate, gap, float((log_true - log_p)[:NUM_EVALUATED].mean()))
    }


def critic_error(model: Any, x: Tensor, rate: float, gap: float, evidence: float) -> dict[str, Any] | None:
    """Return the divergence that a critic estimates and its exact value, over the same x."""
    name = model.info["method"]["name"]
    contrasts = {
        "avb": ("kl", "KL(q(z|x) ‖ p(z))", rate),
        "bavae": ("kl", "KL(q(z|x) ‖ p(z))", rate),
        "asvae": ("f1/log_ratio_p", "KL(q(x, z) ‖ p(x) p(z))", rate + evidence),
        "ali": ("critic/log_ratio_p", "KL(q(x, z) ‖ p(x, z))", gap + evidence),
    }
    if name not in contrasts:
        return None
    key, meaning, value = contrasts[name]
    return {"of": meaning, "claimed": critic_estimate(model, x, key), "exact": value}
