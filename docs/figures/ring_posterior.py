"""Figure of the README: a posterior that no Gaussian fits, approximated with and without a density.

The model is z ~ N(0, I) in two dimensions, x | z ~ N(|z|, 0.2²), and x = 1.5 is observed, so the posterior is a ring.

    python docs/figures/ring_posterior.py      # a few minutes on two cores; writes ring_posterior-{light,dark}.png
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import advae
from advae.report.figures.style import THEMES, FloatArray, Theme, new_figure, to_png

FOLDER = Path(__file__).parent
OBSERVED, NOISE_STD = 1.5, 0.2
REACH = 2.3  # of the axes
NUM_POINTS = 1500
MASSES = (0.99, 0.9, 0.5)
NUM_STEPS = {"full-rank": 300, "implicit": 1500}


def log_joint(z: torch.Tensor) -> torch.Tensor:
    """Return log p(x, z) up to a constant for ``z [S, 2]``."""
    return -z.square().sum(-1) / 2 - ((z.norm(dim=-1) - OBSERVED) / NOISE_STD).square() / 2


def sample(family: str) -> FloatArray:
    """Return samples ``[S, 2]`` of a fitted approximation."""
    posterior = advae.infer(log_joint, {"z": (2,)}, family=family, fits=1, steps=NUM_STEPS[family], seed=0)
    return np.asarray(posterior.sample(NUM_POINTS, seed=0)["z"], dtype=np.float64).reshape(-1, 2)[:NUM_POINTS]


def plot(samples: dict[str, FloatArray], theme: Theme) -> Figure:
    """Plot the regions that hold 50, 90 and 99 % of the posterior, and the samples of each approximation."""
    axis = np.linspace(-REACH, REACH, 300)
    grid = torch.tensor(np.stack(np.meshgrid(axis, axis), -1))
    density = log_joint(grid).exp().numpy()
    ranked = np.sort(density.ravel())[::-1]
    levels = [ranked[np.searchsorted(ranked.cumsum() / ranked.sum(), mass)] for mass in MASSES]
    titles = ("exact posterior  $p(z|x)$", "Gaussian  $q(z|x)$", "sampler  $q(z|x)$, learned with a critic")
    with theme.context():
        figure = new_figure(7.0, 2.5)
        panels = figure.subplots(1, 3, sharex=True, sharey=True)
        for axes, title, points in zip(panels, titles, (None, *samples.values()), strict=True):
            fills = [(theme.primary, alpha) for alpha in (0.16, 0.34, 0.62)]
            axes.contourf(axis, axis, density, levels=[*levels, np.inf], colors=fills)
            if points is not None:
                axes.scatter(*points.T, s=2, color=theme.secondary, alpha=0.55, lw=0)
            axes.set(
                xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal", xticks=[], yticks=[], title=title
            )
            axes.spines[:].set_visible(False)
            axes.grid(False)
    return figure


def main() -> None:
    """Fit both approximations and write the figures."""
    samples = {family: sample(family) for family in NUM_STEPS}
    for theme in THEMES:
        path = FOLDER / f"ring_posterior-{theme.name}.png"
        path.write_bytes(to_png(plot(samples, theme), theme))


if __name__ == "__main__":
    main()
