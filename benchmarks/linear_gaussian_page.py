"""Page and figure of ``linear_gaussian.py``, from the measurements of its runs."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from known_gaussian import NUM_EVALUATED, NUM_LATENTS, Linear, linear_decoder, sample_latents, truth
from PIL import Image
from torch import Tensor

import advae
from advae.report.figures.style import LIGHT, WIDTH, new_figure, to_png

Runs = dict[str, list[dict[str, Any]]]
"""Measurements of the runs of each method, by its name on the page."""


def spread(runs: list[dict[str, Any]], value: Callable[[dict[str, Any]], float], form: str) -> str:
    """Return the median over seeds and, in brackets, the value farthest from zero."""
    values = [value(r) for r in runs]
    return f"{np.median(values):{form}} [{max(values, key=abs):{form}}]" if values else "–"


Columns = dict[str, tuple[Callable[[dict[str, Any]], float], str]]

FROM_TRUTH: Columns = {
    "std, %": (lambda r: 100 * r["true"]["std"], ".1f"),
    "mean, sd": (lambda r: r["true"]["mean"], ".3f"),
    "covariance, %": (lambda r: 100 * r["true"]["cov"], ".1f"),
    "evidence gap, nats": (lambda r: r["evidence_gap"], ".4f"),
    "minutes": (lambda r: r["seconds"] / 60, ".1f"),
}
FROM_OWN: Columns = {
    "std, %": (lambda r: 100 * r["own"]["std"], ".1f"),
    "mean, sd": (lambda r: r["own"]["mean"], ".3f"),
    "covariance, %": (lambda r: 100 * r["own"]["cov"], ".1f"),
    "inference gap, nats": (lambda r: r["inference_gap"], ".4f"),
    "KL to prior, nats": (lambda r: r["kl"], ".2f"),
}


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return a Markdown table; a bar inside a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |" for cells in lines]


def distances(by: Runs, columns: Columns) -> list[str]:
    """Return a table with a row per method."""
    rows = []
    for name, runs in by.items():
        good = [r for r in runs if "error" not in r]
        cells = [spread(good, value, form) for value, form in columns.values()]
        rows.append([name, f"{len(good)} of {len(runs)}", *cells])
    return table(["", "trained", *columns], rows)


def critics(by: Runs) -> list[str]:
    """Return a table of critics: the divergence that each one estimates and its exact value."""
    rows = []
    for name, runs in by.items():
        records = [r["critic"] for r in runs if r.get("critic")]
        if records:
            exact = float(np.median([c["exact"] for c in records]))
            estimate = float(np.median([c["claimed"] for c in records]))
            error = spread(records, lambda c: c["claimed"] - c["exact"], "+.4f")
            rows.append([name, records[0]["of"], f"{estimate:.4f}", f"{exact:.4f}", error])
    return table(["", "divergence", "estimated, nats", "exact, nats", "estimated − exact"], rows)


def targets(records: list[dict[str, Any]]) -> list[str]:
    """Return a table with a row per target, from ``target_record`` of ``linear_gaussian.py``."""
    rows = []
    for t in records:
        cells = [f"{100 * v:.1f} %" for v in t["std"]] + [f"{v:.2g} nat" for v in t["evidence"]]
        rows.append([t["method"], *cells, "met" if t["met"] else "not met"])
    return table(["", "std within", "reached", "evidence within", "reached", ""], rows)


def page(by: Runs, target_records: list[dict[str, Any]], shown: int) -> str:
    """Return the results as Markdown; ``shown`` is the seed in the figure."""
    stds = torch.linalg.eigvalsh(truth()[0].C).sqrt()
    parts = {"critics": critics(by), "targets": targets(target_records)}
    parts |= {"from_truth": distances(by, FROM_TRUTH), "from_own": distances(by, FROM_OWN)}
    exact_kl = next(r["exact_kl"] for runs in by.values() for r in runs if "error" not in r)
    return PAGE.format(
        **{name: "\n".join(lines) for name, lines in parts.items()},
        small=f"{stds[0]:.2f}",
        large=f"{stds[1]:.2f}",
        rate=f"{-float(stds.log().sum()):.2f}",
        images=NUM_EVALUATED,
        latents=NUM_LATENTS,
        exact_kl=f"{exact_kl:.2f}",
        shown=shown,
    )


# The remarks describe the runs in results/; check them when those are repeated.
PAGE = """# Every method on data whose posterior and evidence are known

Made by `benchmarks/linear_gaussian.py`. Data: z ~ N(0, I) of 2 dimensions, x = W z + σ ε of 20 features, standardized;
100,000 examples to train on, 10,000 held out. The posterior of an example is a normal with the same
covariance for all: correlated, with standard deviations {small} and {large} along its axes. A latent has {rate} nats of
information about an example.

Each method starts from random weights and takes 6,000 steps of 512 examples, with seeds 0 to 4; learning
rates and widths were chosen on seed 0. The decoder is linear, so that its evidence and posterior are always exact.
The encoder is a network of x and noise for AVB and BAVAE, a noise basis for AVB + AC (its contrast a diagonal normal,
as in the paper, or a full one), and a diagonal normal for VAE, AS-VAE and ALI: a diagonal normal can be exact, but only
after the model has rotated its latents to the axes of the posterior. BAVAE's decoder is a linear network of latents and
noise, whose density BAVAE does not use.

Tables give the median over seeds [the seed farthest from zero].

## From the exact posterior and evidence of the data

{from_truth}

- *std*: relative error of the encoder's standard deviation along an axis of the exact posterior, in the mean over
  {images} held-out examples, for the axis where it is larger. *mean*: the means' difference in exact standard
  deviations, root mean square. *covariance*: Frobenius norm of the difference, as a share. Data determine latents
  only up to a rotation, so they are rotated to fit first.
- *evidence gap*: KL of the data's model from the learned one, by formula.
  The 60 free parameters of a normal decoder cost 0.0003 nat when learned from 100,000 examples.
- An encoder without density is measured by {latents:,} latents per example: their sampling error alone is 0.4 % in
  *std* and 0.008 in *mean*.
- *minutes*: on one core of a machine with other load.

## From the exact posterior of the learned decoder

{from_own}

- *inference gap*: learned evidence less evidence lower bound, KL(q(z|x) ‖ p(z|x)); with an error of 0.002 for an
  encoder without density, whose entropy is estimated by nearest neighbors. *KL to prior*: KL(q(z|x) ‖ p(z)); {exact_kl}
  for the exact posterior of these examples.

## Targets

In the median over seeds, in both tables.

{targets}

## Estimates of the critics

The divergence that a method's critic estimates (with an error of 0.005) and its exact value, on the same held-out
examples. For AVB the difference, with the opposite sign, is that of the critic's ELBO from the exact one.

{critics}

## Remarks

- **AVB + AC** is nearly as exact as the VAE, without a density and for any orientation of its posterior: no rotation
  is needed. The remaining error is the variation of the encoder's errors between examples.
- **AVB**, the same with the prior as contrast, is the least accurate of the methods that work. Its critic must
  represent all of log q(z|x), many nats from a prior that is easily distinguished from it; its median estimate is too
  low, so its ELBO is too high.
- **AS-VAE** and **ALI** are given the densities of encoder and prior (ALI's critic also the decoder's), and their
  critics learn only the residual, which is near zero at the end. ALI has no reconstruction term: one seed of five is
  still 0.08 nat off when the learning rate has decayed, and its critic does detect a residual.
- **VAE** is the control: no critic, and a family that contains the exact posterior.
- **BAVAE** fails, and by its objective, not by its training: its critic of the prior is right to 0.01 nat, its
  samples are nearly as good as those of the others (*evidence gap*), but its latents are uninformative (*KL to prior*).
  The value of its game is E KL(q(x|z) ‖ p(x|z)) + E KL(q(z|x) ‖ p(z)). A decoder that generates x from its own noise
  makes both zero with an encoder that ignores x, whereas the exact posterior costs {rate} nats. Under the ELBO, without
  the information term of `methods/bavae.py`, the two would have the same value. Such an encoder is near its own
  decoder's posterior, which is the prior: interpret the second table accordingly.

## Latents

Latents of four held-out examples, seed {shown}, rotated to fit.

![encoders' samples over exact posteriors](linear-gaussian.png)
"""


def figure(runs: dict[str, Path]) -> bytes:
    """Return a PNG of each run's latents of four test examples, over the exact posteriors."""
    with LIGHT.context():
        sheet = new_figure(WIDTH, 3.9)
        panels = list(sheet.subplots(2, 4, sharex=True, sharey=True).flat)
        for panel, (name, path) in zip(panels, runs.items(), strict=False):
            z, exact, x = latents_for_figure(path)
            for color, points, center in zip(LIGHT.palette, z.unbind(1), exact.mean(x), strict=False):
                panel.scatter(*points.T.numpy(), s=3.0, color=color, alpha=0.45, lw=0)
                for share in (0.5, 0.95):
                    panel.plot(*contour(center, exact.C, share), color=LIGHT.foreground, lw=0.7)
            panel.set(title=name, aspect="equal", xlim=(-2.7, 2.7), ylim=(-2.7, 2.7))
            panel.set(xticks=[-2, 0, 2], yticks=[-2, 0, 2])
        for panel in panels[len(runs) :]:
            panel.set_axis_off()
        panels[-1].text(-2.3, 0, KEY, va="center", color=LIGHT.muted, fontsize=8.5, linespacing=1.5)
        return quantize_colors(to_png(sheet))


def quantize_colors(picture: bytes) -> bytes:
    """Return the same PNG in 128 colors: a quarter of the bytes, without a visible difference."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(128).save(buffer, "png", optimize=True)
    return buffer.getvalue()


KEY = """Color: samples of the
encoder for one test
example.

Ellipses: half and 95 % of
the exact posterior."""


def latents_for_figure(path: Path) -> tuple[Tensor, Linear, Tensor]:
    """Return 300 latents ``[300, 4, d]`` of four test examples, rotated to the exact model; that model; the examples.

    The examples are those whose exact posterior means are nearest to four distant points.
    """
    torch.manual_seed(0)
    run = advae.Run.open(path)
    model, data = run.model(), advae.load_data(advae.DataOptions(**run.config["data"]))
    exact = truth()[0].standardized(data.preprocessing.mean, data.preprocessing.std)
    held_out = data.preprocessing.apply(data.test.values)
    targets = 1.15 * torch.tensor([[-1, -1], [-1, 1], [1, -1], [1, 1]], dtype=torch.float64)
    x = held_out[torch.cdist(targets, exact.mean(held_out)).argmin(1)]
    R = linear_decoder(model).rotation_to(exact)
    return sample_latents(model, x, 512)[:300] @ R.T, exact, x


def contour(center: Tensor, C: Tensor, share: float) -> np.ndarray:
    """Return the ellipse that contains a share of ``N(center, C)``, ``[2, 181]``: of radius √(−2 log(1 − share))."""
    t = torch.linspace(0, 2 * math.pi, 181, dtype=torch.float64)
    circle = math.sqrt(-2 * math.log(1 - share)) * torch.stack([t.cos(), t.sin()])
    return (center[:, None] + torch.linalg.cholesky(C) @ circle).numpy()
