"""The linear-Gaussian data of ``linear_gaussian.py``, what is known about them, and how far a model is from it.

    z ~ N(0, I)        codes                               [d = 2]
    x = W z + σ ε      observations, then standardized     [n = 20]

Everything that is compared with is exact. Draws are taken only of a posterior without a density: its moments are then
off by what so many draws leave, and its entropy is found by nearest neighbours.
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

D, N, DRAWS = 2, 20, 120_000
SIGNAL = 0.474  # of every feature's variance of one: posterior standard deviations of a quarter and a half
IMAGES, CODES = 128, 16_384  # a standard deviation from so many codes is off by 1/√(2·16,384) = 0.55 %
NEIGHBOUR = 4  # whose distance tells an entropy
REPEATS = 512  # of each x when a critic is asked
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

    def observed(self, mean: Tensor, std: Tensor) -> Linear:
        """The model of ``(x − mean) / std``."""
        mean, std = mean.double(), std.double()
        return Linear(self.W / std[:, None], (self.b - mean) / std, self.S / (std[:, None] * std))

    def turn(self, like: Linear) -> Tensor:
        """The turn ``R [d, d]`` of the codes, ``z ↦ R z``, that brings this model nearest to ``like``.

        The prior has no axes, so data determine a model only up to a turn; it may mirror as well.
        """
        U, _, V = torch.linalg.svd(like.W.T @ torch.linalg.solve(like.S, self.W))
        return U @ V


def truth() -> tuple[Linear, np.random.Generator]:
    """The data's own model, and the generator to go on with: every feature has variance 1.

    W has rows of one length whose directions crowd around a slanted axis: the posterior is long and slanted too.
    """
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((N, D)) @ np.array([[1.6, 0.6], [0.0, 0.7]])
    W = math.sqrt(SIGNAL) * rows / np.linalg.norm(rows, axis=1, keepdims=True)
    S = (1 - SIGNAL) * torch.eye(N, dtype=torch.float64)
    return Linear(torch.from_numpy(W), torch.zeros(N, dtype=torch.float64), S), rng


def made(folder: Path) -> Path:
    """The draws as a file, written if it is not there."""
    path = folder / "data.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        model, rng = truth()
        signal = rng.standard_normal((DRAWS, D)) @ model.W.numpy().T
        noise = math.sqrt(1 - SIGNAL) * rng.standard_normal((DRAWS, N))
        np.save(path, (signal + noise).astype(np.float32))
    return path


def learned(model: Any) -> Linear:
    """What a linear decoder is. That of an implicit one is exact too: its noise stands beside z in the input."""
    layer = model.decoder.network.body[0]
    weight, b = layer.weight.detach().double(), layer.bias.detach().double()
    W, rest = weight[:, :D], weight[:, D:]
    if rest.numel():
        return Linear(W, b, rest @ rest.T)
    scale = model.decode(torch.zeros(1, D)).scale[0].detach().double()
    return Linear(W, b, torch.diag(scale.square()))


# --- what is measured ---------------------------------------------------------------------------------------


@torch.no_grad()
def codes(model: Any, x: Tensor, count: int) -> Tensor:
    """``count`` codes of each ``x [B, n]``, ``[count, B, d]`` in float64."""
    parts = [model.encode(x).sample((256,)) for _ in range(count // 256)]
    return torch.cat(parts).double()


@torch.no_grad()
def moments(model: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean ``[B, d]``, covariance ``[B, d, d]`` and negentropy ``KL(q ‖ N(mean, cov)) [B]`` of q(z|x)."""
    q = model.encode(x)
    if q.has_log_prob:
        mean, cov = (moment.double() for moment in q.moments(full=True))
        return mean, cov, torch.zeros(len(x), dtype=torch.float64)
    z = codes(model, x, CODES)
    mean, cov = z.mean(0), torch.stack([torch.cov(each.T) for each in z.unbind(1)])
    return mean, cov, torch.tensor([negentropy(each.numpy()) for each in z.unbind(1)])


def negentropy(z: np.ndarray) -> float:
    """``KL(q ‖ N)`` of draws ``z [K, d]`` of q and the normal of their own moments, in nats.

    By distances ρ of the whitened draws to the k-th neighbour: ``H ≈ ψ(K) − ψ(k) + log c + d E log ρ``, c the unit
    ball's volume (Kozachenko and Leonenko 1987). For 16,384 draws of a normal it gives 0.002 ± 0.005 in place of 0.
    """
    count, d = z.shape
    white = np.linalg.solve(np.linalg.cholesky(np.cov(z.T)), (z - z.mean(0)).T).T
    rho = cKDTree(white).query(white, NEIGHBOUR + 1)[0][:, -1]  # the nearest is the draw itself
    ball = 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d + 1)
    entropy = digamma(count) - digamma(NEIGHBOUR) + ball + d * np.log(rho).mean()
    return float(0.5 * d * (1 + math.log(2 * math.pi)) - entropy)


def distance(mean: Tensor, cov: Tensor, exact: Linear, x: Tensor) -> dict[str, Any]:
    """How far ``N(mean [B, d], cov [B, d, d])`` is from the exact posterior at ``x [B, n]``.

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


def claimed(model: Any, x: Tensor, key: str) -> float:
    """The mean of a diagnostic of the method over ``REPEATS`` codes of each x."""
    method = METHODS.build(model.info["method"])
    with torch.no_grad():
        parts = [
            method.losses(model, x.repeat(32, 1)).diagnostics[key].double().mean()
            for _ in range(REPEATS // 32)
        ]
    return float(torch.stack(parts).mean())


def measure(run: Any) -> dict[str, Any]:
    """All figures of one run."""
    torch.manual_seed(0)  # of codes drawn below
    model, data = run.model(), advae.load_data(advae.DataOptions(**run.config["data"]))
    exact, own = truth()[0].observed(data.preprocessing.mean, data.preprocessing.std), learned(model)
    held_out = data.preprocessing.apply(data.test.values)
    x = held_out[:IMAGES]
    mean, cov, bent = moments(model, x)
    R = own.turn(exact)
    posterior = MultivariateNormal(own.mean(x), own.C)
    prior = MultivariateNormal(torch.zeros_like(mean), EYE)
    normal, kl = MultivariateNormal(mean, cov), kl_divergence
    gap, rate = float((kl(normal, posterior) + bent).mean()), float((kl(normal, prior) + bent).mean())
    log_p, log_true = (m.evidence.log_prob(held_out.double()) for m in (own, exact))
    found = {
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
        "elbo": float(log_p[:IMAGES].mean()) - gap,
        "negentropy": float(bent.mean()),
        "kl": rate,
        "exact_kl": float(kl(MultivariateNormal(exact.mean(x), exact.C), prior).mean()),
    }
    return found | {"critic": judged(model, x, rate, gap, float((log_true - log_p)[:IMAGES].mean()))}


def judged(model: Any, x: Tensor, rate: float, gap: float, evidence: float) -> dict[str, Any] | None:
    """The divergence that a critic claims, and what it is: over the same x."""
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
    return {"of": meaning, "claimed": claimed(model, x, key), "exact": value}
