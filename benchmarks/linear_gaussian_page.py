"""The page and the figure of ``linear_gaussian.py``, from what was measured of its runs."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from known_gaussian import CODES, IMAGES, Linear, codes, learned, truth
from PIL import Image
from torch import Tensor

import advae
from advae.report.figures.style import LIGHT, WIDTH, new_figure, to_png

Runs = dict[str, list[dict[str, Any]]]
"""What was measured of the runs of a method, by its name on the page."""


def spread(runs: list[dict[str, Any]], value: Callable[[dict[str, Any]], float], form: str) -> str:
    """Median over seeds and, in brackets, the one farthest from zero."""
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
    "code, nats": (lambda r: r["kl"], ".2f"),
}


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table; a bar inside a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |" for cells in lines]


def distances(by: Runs, columns: Columns) -> list[str]:
    """A row a method."""
    rows = []
    for name, runs in by.items():
        good = [r for r in runs if "error" not in r]
        cells = [spread(good, value, form) for value, form in columns.values()]
        rows.append([name, f"{len(good)} of {len(runs)}", *cells])
    return table(["", "trained", *columns], rows)


def critics(by: Runs) -> list[str]:
    """A row a method with a critic: the divergence it claims beside what it is."""
    rows = []
    for name, runs in by.items():
        judged = [r["critic"] for r in runs if r.get("critic")]
        if judged:
            exact = float(np.median([c["exact"] for c in judged]))
            claim = float(np.median([c["claimed"] for c in judged]))
            error = spread(judged, lambda c: c["claimed"] - c["exact"], "+.4f")
            rows.append([name, judged[0]["of"], f"{claim:.4f}", f"{exact:.4f}", error])
    return table(["", "divergence", "claimed, nats", "is, nats", "claimed − is"], rows)


def targets(found: list[dict[str, Any]]) -> list[str]:
    """A row a target, from what ``reached`` of ``linear_gaussian.py`` gives."""
    rows = []
    for t in found:
        cells = [f"{100 * v:.1f} %" for v in t["std"]] + [f"{v:.2g} nat" for v in t["evidence"]]
        rows.append([t["method"], *cells, "met" if t["met"] else "not met"])
    return table(["", "std within", "reached", "evidence within", "reached", ""], rows)


def page(by: Runs, found: list[dict[str, Any]], shown: int) -> str:
    """The results as Markdown; ``shown`` is the seed in the figure."""
    stds = torch.linalg.eigvalsh(truth()[0].C).sqrt()
    parts = {"critics": critics(by), "targets": targets(found)}
    parts |= {"from_truth": distances(by, FROM_TRUTH), "from_own": distances(by, FROM_OWN)}
    code = next(r["exact_kl"] for runs in by.values() for r in runs if "error" not in r)
    return PAGE.format(
        **{name: "\n".join(lines) for name, lines in parts.items()},
        small=f"{stds[0]:.2f}",
        large=f"{stds[1]:.2f}",
        rate=f"{-float(stds.log().sum()):.2f}",
        images=IMAGES,
        codes=CODES,
        code=f"{code:.2f}",
        shown=shown,
    )


# The remarks are of the runs that are recorded in results/; look at them again when those are made anew.
PAGE = """# Every method on data whose posterior and evidence are known

Made by `benchmarks/linear_gaussian.py`. Data: z ~ N(0, I) of 2 dimensions, x = W z + σ ε of 20 features, standardized;
100,000 examples to train on, 10,000 held out. The posterior of an example is a normal, the same for all but for its
mean: slanted, with standard deviations {small} and {large} along its axes. A code tells {rate} nats about an example.

Each method starts from random weights and takes 6,000 steps of 512 examples, with seeds 0 to 4; its rates and widths
were chosen on seed 0. The decoder is linear, so that its evidence and its posterior are exact whatever it has learned.
The encoder is a network of x and noise for AVB and BAVAE, a noise basis for AVB + AC (its contrast a diagonal normal,
as in the paper, or a full one), and a diagonal normal for VAE, AS-VAE and ALI: such a one can be exact, but only after
the model has turned its codes until the posterior's axes are theirs. BAVAE's decoder is a linear network of code and
noise whose density BAVAE never sees.

Tables give the median over seeds [the seed farthest from zero].

## From the exact posterior and evidence of the data

{from_truth}

- *std*: by how much the encoder's standard deviation along an axis of the exact posterior is off, in the mean over
  {images} held-out examples, of the axis where it is more. *mean*: the means' difference in exact standard deviations,
  root mean square. *covariance*: Frobenius norm of the difference, as a share. Data tell codes up to a turn only, so
  they are turned to fit first.
- *evidence gap*: KL of the data's model from the learned one, by formula: what the learned evidence lacks on average.
  The 60 free parameters of a normal decoder cost 0.0003 nat when learned from 100,000 examples.
- An encoder without density is known by {codes:,} codes an example: that alone makes *std* 0.4 % off on average and
  *mean* 0.008.
- *minutes* of a core that had other work too.

## From the exact posterior of the decoder that was learned

{from_own}

- *inference gap*: learned evidence less evidence lower bound, KL(q(z|x) ‖ p(z|x)); certain to 0.002 for an encoder
  without density, whose entropy is found by nearest neighbours. *code*: KL(q(z|x) ‖ p(z)); {code} for the exact
  posterior of these examples.

## The targets

In the median over seeds, in both tables.

{targets}

## What the critics claim

The divergence that a method's critic stands for, as the critic gives it (certain to 0.005) and as it is, on the same
held-out examples. For AVB the difference, with its sign turned, is that of the critic's own evidence lower bound from
the exact one.

{critics}

## Remarks

- **AVB + AC** is nearly as exact as the VAE, without a density and whichever way its posterior is slanted: nothing had
  to be turned. What is left is the scatter of the encoder's deviations from example to example.
- **AVB**, the same with the prior for a contrast, is the least exact of those that work. Its critic must give the whole
  of log q(z|x), many nats beyond a prior that it easily tells from it; in the median it errs low, so the bound that it
  gives is too high.
- **AS-VAE** and **ALI** are given the densities of encoder and prior (ALI's critic also the decoder's), and their
  critics learn only what is left, next to nothing at the end. ALI has no reconstruction term to hold it: one seed of
  five is still 0.08 nat off when the rates have fallen, and its critic does say that something is left.
- **VAE** is the control: no critic, and a family that holds the answer.
- **BAVAE** fails, and by its objective, not by its training: its critic of the prior is right to 0.01 nat, its
  samples nearly as good as those of the others (*evidence gap*), and its codes say nothing (*code*). Its game is worth
  E KL(q(x|z) ‖ p(x|z)) and E KL(q(z|x) ‖ p(z)) together. A decoder that makes all of x from its own noise brings both
  to zero with an encoder that ignores x, and the exact posterior would pay {rate} nats. Under the evidence lower bound,
  without the information term that `methods/bavae.py` names, the two would be worth the same. From its own decoder's
  posterior, which is the prior, such an encoder is not far: read the second table with that in mind.

## Codes

Codes of four held-out examples, seed {shown}, turned to fit.

![encoders' codes over exact posteriors](linear-gaussian.png)
"""


def figure(runs: dict[str, Path]) -> bytes:
    """Codes of four test examples by each run, over the exact posteriors."""
    with LIGHT.context():
        sheet = new_figure(WIDTH, 3.9)
        panels = list(sheet.subplots(2, 4, sharex=True, sharey=True).flat)
        for panel, (name, path) in zip(panels, runs.items(), strict=False):
            z, exact, x = drawn(path)
            for colour, points, centre in zip(LIGHT.palette, z.unbind(1), exact.mean(x), strict=False):
                panel.scatter(*points.T.numpy(), s=3.0, color=colour, alpha=0.45, lw=0)
                for share in (0.5, 0.95):
                    panel.plot(*contour(centre, exact.C, share), color=LIGHT.foreground, lw=0.7)
            panel.set(title=name, aspect="equal", xlim=(-2.7, 2.7), ylim=(-2.7, 2.7))
            panel.set(xticks=[-2, 0, 2], yticks=[-2, 0, 2])
        for panel in panels[len(runs) :]:
            panel.set_axis_off()
        panels[-1].text(-2.3, 0, KEY, va="center", color=LIGHT.muted, fontsize=8.5, linespacing=1.5)
        return lighter(to_png(sheet))


def lighter(picture: bytes) -> bytes:
    """The same PNG in 128 colours: a quarter of the bytes, and no difference to the eye."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(128).save(buffer, "png", optimize=True)
    return buffer.getvalue()


KEY = """A colour: the codes that
the encoder draws for one
test example.

Ellipses: half and 95 % of
the exact posterior."""


def drawn(path: Path) -> tuple[Tensor, Linear, Tensor]:
    """300 codes ``[300, 4, d]`` of four test examples, turned as the exact model's; that model; the examples.

    The examples are those whose exact posterior means are nearest to four places well apart.
    """
    torch.manual_seed(0)
    run = advae.Run.open(path)
    model, data = run.model(), advae.load_data(advae.DataOptions(**run.config["data"]))
    exact = truth()[0].observed(data.preprocessing.mean, data.preprocessing.std)
    held_out = data.preprocessing.apply(data.test.values)
    places = 1.15 * torch.tensor([[-1, -1], [-1, 1], [1, -1], [1, 1]], dtype=torch.float64)
    x = held_out[torch.cdist(places, exact.mean(held_out)).argmin(1)]
    R = learned(model).turn(exact)
    return codes(model, x, 512)[:300] @ R.T, exact, x


def contour(centre: Tensor, C: Tensor, share: float) -> np.ndarray:
    """The ellipse that holds a share of ``N(centre, C)``, ``[2, 181]``: of radius √(−2 log(1 − share))."""
    t = torch.linspace(0, 2 * math.pi, 181, dtype=torch.float64)
    circle = math.sqrt(-2 * math.log(1 - share)) * torch.stack([t.cos(), t.sin()])
    return (centre[:, None] + torch.linalg.cholesky(C) @ circle).numpy()
