"""Page and figure of the four-points experiment."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D

from advae.formatting import Table, markdown_table
from advae.report.figures.style import LIGHT, WIDTH, FloatArray, new_figure, to_png

Values = dict[str, Any]
"""Of a run, as :func:`four_points.grid.measure` returns them, with seed and seconds."""
Results = dict[str, list[Values]]
"""Values of all runs by method."""
Panels = dict[str, FloatArray]
"""Of a method: "samples" of its encoder ``[4, S, 2]`` and "exact" posteriors of its decoder ``[4, bins, bins]``."""


# --- the page -----------------------------------------------------------------------------------------------


COLUMNS: dict[str, tuple[Callable[[Values], float], Callable[..., float], str]] = {
    "ELBO": (lambda r: r["elbo"], min, ".4f"),
    "log p(x)": (lambda r: r["evidence"], min, ".4f"),
    "inference gap": (lambda r: r["inference_gap"], max, ".4f"),
    "reconstruction": (lambda r: r["reconstruction"], max, ".4f"),
    "KL(q(z\\|x) ‖ p)": (lambda r: r["kl"], max, ".4f"),
    "KL(q(z) ‖ p)": (lambda r: r["marginal"], max, ".4f"),
    "overlap": (lambda r: r["overlap"], max, ".4f"),
    "exact overlap": (lambda r: r["exact_overlap"], max, ".4f"),
    "minutes": (lambda r: r["seconds"] / 60, max, ".1f"),
}
"""Columns of the table: value of a run, which of several is the worst, and number format."""


def median_and_worst(
    runs: list[Values], value: Callable[[Values], float], worst: Callable[..., float], form: str
) -> str:
    """Return the median over seeds and, in brackets, the worst."""
    values = [value(r) for r in runs]
    return f"{np.median(values):{form}} [{worst(values):{form}}]" if values else "–"


def values_table(results: Results) -> str:
    """Return a row per method with the columns of :data:`COLUMNS`."""
    rows = [
        [name, str(len(runs)), *(median_and_worst(runs, *c) for c in COLUMNS.values())]
        for name, runs in results.items()
    ]
    return markdown_table(Table.from_texts(["", "seeds", *COLUMNS], rows))


def seeds_table(results: Results) -> str:
    """Return a row per seed: the ELBO of each method, AVB's adversarial estimate, and log p(x)."""
    by_seed: dict[int, dict[str, Values]] = {}
    for name, runs in results.items():
        for r in runs:
            by_seed.setdefault(r["seed"], {})[name] = r
    rows = []
    for seed, of in sorted(by_seed.items()):
        cells = [f"{of[name]['elbo']:.4f}" if name in of else "–" for name in ("VAE", "AVB")]
        claim = f"{of['AVB']['adversarial_elbo']:.4f}" if "AVB" in of else "–"
        most = f"{of['AVB']['evidence']:.4f}" if "AVB" in of else "–"
        more = f"{of['AVB']['elbo'] - of['VAE']['elbo']:+.4f}" if len(of) == 2 else "–"
        rows.append([str(seed), *cells, more, most, claim])
    head = ["seed", "VAE, ELBO", "AVB, ELBO at least", "AVB − VAE", "AVB, log p(x)", "AVB, ELBO (critic)"]
    return markdown_table(Table.from_texts(head, rows))


def errors(results: Results) -> dict[str, str]:
    """Return the errors of values by samples, and how often the adversarial estimate exceeds log p(x)."""
    vae, avb = results.get("VAE", []), results.get("AVB", [])
    off = [abs(r["by_samples"][key]["low"] - r[key]) for r in vae for key in ("kl", "marginal")]
    wide = [
        r["by_samples"][key]["high"] - r["by_samples"][key]["low"] for r in avb for key in ("kl", "marginal")
    ]
    order = [r["by_samples"][key]["order"] for r in avb for key in ("kl", "marginal")]
    stderr = [r["by_samples"]["reconstruction"]["stderr"] for r in avb]
    above = sum(r["adversarial_elbo"] > r["evidence"] for r in avb)
    return {
        "above": str(above),
        "trained": str(len(avb)),
        "off": f"{max(off):.4f}" if off else "–",
        "wide": f"{max(wide):.4f}" if wide else "–",
        "orders": f"{min(order):.1f} to {max(order):.1f}" if order else "–",
        "stderr": f"{max(stderr):.4f}" if stderr else "–",
    }


def make_page(results: Results, shown: int) -> str:
    """Return the results as Markdown; ``shown`` is the seed in the figure."""
    best = f"−{math.log(4):.4f}"
    tables = {"values": values_table(results), "seeds": seeds_table(results)}
    return PAGE.format(shown=shown, best=best, **tables, **errors(results))


PAGE = """# Four observations and a two-dimensional latent: do the posteriors tile the prior?

Made by `experiments/four_points/run.py`, after the synthetic example of Mescheder, Nowozin and Geiger (2017). The data
are the four one-hot vectors of length 4, a quarter each. No model can have more than log p(x) = −log 4 = {best} on
average, and one that does has four disjoint posteriors that tile the prior. Four normals cannot.

![the four posteriors](toy.png)

Seed {shown}. Top: samples of the encoder, a color for each observation. Bottom: exact posteriors of its decoder.
Circles contain 50, 90 and 99 % of the prior.

## Values

Nats, means over the four observations; median over seeds [the worst].

{values}

- *log p(x)*: of the decoder, by a sum over a grid of 512² points over [−5, 5]²; *inference gap*: log p(x) − ELBO.
  *Reconstruction*: −E log p(x|z).
- *KL(q(z) ‖ p)*: of the mean of the four posteriors: gaps and overlaps of the tiling.
- *Overlap*: H(x|z) for latents of the encoder: 0 for disjoint posteriors, log 4 for equal ones. *Exact overlap*: of the
  decoder's posteriors.
- Minutes on one core.

{seeds}

## Errors

The VAE's values are exact up to the grid. AVB's encoder is known by samples: four million of each posterior, counted in
512² cells of equal prior mass, with Grassberger's correction. Structure within cells is lost, so these KLs are too low;
what the last halving of the cells' width gained is added, and the table has the conservative bounds: KLs *at most*, the
ELBO *at least*. Both bounds differ by at most {wide} nats (order of convergence {orders}: 2 at jumps, 4 where smooth).
The same method on samples of the VAE differs from the exact values by at most {off}. The reconstruction by samples has
a standard error of {stderr}.

*ELBO (critic)*: with the critic's own estimate of the KL, an adversarial estimate. Where the critic underestimates the
KL it is too high: it exceeds log p(x) for {above} of {trained} seeds.

## Training

As in the paper: encoder and decoder of 3 × 64 ELU units, 64 noise dimensions for AVB's encoder, two critic updates per
step, contrast with the prior, whose density is known to the critic. Different: the critic has 3 × 128 ELU units (five
residual blocks of 256), learning rates are 1e-3 and 2e-3 with a half cosine (2e-5 and 1e-4), a batch has 64 copies of
each observation (512 at random), and there are 8,000 steps, so that a run takes minutes; weights are averaged with
decay 0.999. The VAE has the same networks, learning rate, steps and batches. Settings were chosen with AVB's seed 0.
"""


# --- the figure ---------------------------------------------------------------------------------------------


DPI = 140  # limits the size of the file
AXIS_LIMIT = 3.5
PRIOR_MASSES = (0.5, 0.9, 0.99)  # within the circles


def make_figure(panels: dict[str, Panels], half_width: float) -> bytes:
    """Return a PNG with a column per method: samples of its encoder above its exact posteriors."""
    with LIGHT.context():
        sheet = new_figure(WIDTH, 7.35)
        sheet.set_dpi(DPI)
        grid = np.asarray(sheet.subplots(2, max(len(panels), 1), sharex=True, sharey=True, squeeze=False))
        for (upper, lower), (name, arrays) in zip(grid.T, panels.items(), strict=False):
            plot_samples(upper, arrays["samples"])
            lower.imshow(
                to_colors(arrays["exact"]),
                extent=(-half_width, half_width, -half_width, half_width),
                origin="lower",
                interpolation="bilinear",
            )
            upper.set_title(f"{name}: encoder")
            lower.set_title(f"{name}: exact posteriors of its decoder")
            for panel in (upper, lower):
                draw_prior(panel)
        marks = [
            Line2D([], [], color=color, marker="o", ms=5, ls="", label=f"$x_{i}$")
            for i, color in enumerate(LIGHT.palette[:4], 1)
        ]
        circle = Line2D([], [], color=LIGHT.foreground, lw=0.5, alpha=0.55, label="50, 90, 99 % of the prior")
        sheet.legend(handles=[*marks, circle], loc="outside upper left", ncols=5, handletextpad=0.4)
        return to_png(sheet)


def plot_samples(panel: Axes, samples: FloatArray) -> None:
    """Plot samples ``[4, S, 2]`` in random order, so that no color covers the others."""
    order = np.random.default_rng(0).permutation(samples.shape[0] * samples.shape[1])
    colors = np.repeat([to_rgb(c) for c in LIGHT.palette[: len(samples)]], samples.shape[1], axis=0)
    x, y = samples.reshape(-1, 2)[order].T
    panel.scatter(x, y, s=4.0, c=colors[order], alpha=0.55, lw=0)


def to_colors(mass: FloatArray) -> FloatArray:
    """Return colors ``[bins, bins, 4]`` of masses ``[4, bins, bins]``, rows from below, mixed where they overlap.

    Hue: the observation. Opacity: the density of the mean of the posteriors, which is the prior if they tile it.
    """
    mean = mass.sum(0)
    share = mass / np.maximum(mean, np.finfo(mean.dtype).tiny)
    hue = np.einsum("iab,ic->bac", share, np.array([to_rgb(c) for c in LIGHT.palette[: len(mass)]]))
    opacity = np.sqrt(mean / mean.max()).T
    return np.concatenate([np.clip(hue, 0, 1), opacity[..., None]], axis=2)


def draw_prior(panel: Axes) -> None:
    """Draw contours of the prior in a square window."""
    t = np.linspace(0, 2 * math.pi, 361)
    for mass in PRIOR_MASSES:
        radius = math.sqrt(-2 * math.log(1 - mass))
        panel.plot(radius * np.cos(t), radius * np.sin(t), color=LIGHT.foreground, lw=0.5, alpha=0.55)
    panel.set(aspect="equal", xlim=(-AXIS_LIMIT, AXIS_LIMIT), ylim=(-AXIS_LIMIT, AXIS_LIMIT))
    panel.set(xticks=[-3, 0, 3], yticks=[-3, 0, 3])
    panel.grid(False)
