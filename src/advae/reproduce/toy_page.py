"""The page and the figure of ``toy.py``, from what was measured of its runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D

from advae.report.figures.style import LIGHT, WIDTH, FloatArray, new_figure, png
from advae.reproduce.details import markdown

Row = dict[str, Any]
Runs = dict[str, list[Row]]
"""What was measured of the runs of a method, by its name on the page."""
Panels = dict[str, FloatArray]
"""Of a method: draws of its encoder ``[4, S, 2]`` and its decoder's true posteriors ``[4, bins, bins]``."""


# --- the page -----------------------------------------------------------------------------------------------


COLUMNS: dict[str, tuple[Callable[[Row], float], Callable[..., float], str]] = {
    "ELBO": (lambda r: r["elbo"], min, ".4f"),
    "log p(x)": (lambda r: r["evidence"], min, ".4f"),
    "inference gap": (lambda r: r["inference_gap"], max, ".4f"),
    "reconstruction": (lambda r: r["reconstruction"], max, ".4f"),
    "KL(q(z\\|x) ‖ p)": (lambda r: r["kl"], max, ".4f"),
    "KL(q(z) ‖ p)": (lambda r: r["marginal"], max, ".4f"),
    "overlap": (lambda r: r["overlap"], max, ".4f"),
    "true overlap": (lambda r: r["true_overlap"], max, ".4f"),
    "minutes": (lambda r: r["seconds"] / 60, max, ".1f"),
}
"""What is told of a run, which of several is the worst, and how it is written."""


def spread(runs: list[Row], value: Callable[[Row], float], worst: Callable[..., float], form: str) -> str:
    """Median over seeds and, in brackets, the worst."""
    values = [value(r) for r in runs]
    return f"{np.median(values):{form}} [{worst(values):{form}}]" if values else "–"


def good(runs: list[Row]) -> list[Row]:
    """Those that did not fail."""
    return [r for r in runs if "error" not in r]


def figures(by: Runs) -> str:
    """A row a method: what :data:`COLUMNS` names."""
    rows = [
        [name, f"{len(good(runs))} of {len(runs)}", *(spread(good(runs), *c) for c in COLUMNS.values())]
        for name, runs in by.items()
    ]
    return markdown(["", "trained", *COLUMNS], rows)


def seeds(by: Runs) -> str:
    """A row a seed: each method's bound, AVB's in its critic's opinion, and what no bound exceeds."""
    found: dict[int, dict[str, Row]] = {}
    for name, runs in by.items():
        for r in good(runs):
            found.setdefault(r["seed"], {})[name] = r
    rows = []
    for seed, of in sorted(found.items()):
        cells = [f"{of[name]['elbo']:.4f}" if name in of else "–" for name in ("VAE", "AVB")]
        claim = f"{of['AVB']['claimed_elbo']:.4f}" if "AVB" in of else "–"
        most = f"{of['AVB']['evidence']:.4f}" if "AVB" in of else "–"
        more = f"{of['AVB']['elbo'] - of['VAE']['elbo']:+.4f}" if len(of) == 2 else "–"
        rows.append([str(seed), *cells, more, most, claim])
    head = ["seed", "VAE, ELBO", "AVB, ELBO at least", "AVB − VAE", "AVB, log p(x)", "AVB, ELBO (critic)"]
    return markdown(head, rows)


def checks(by: Runs) -> dict[str, str]:
    """How far what is known by draws may be off, and how often the critic's bound is none."""
    vae, avb = good(by.get("VAE", [])), good(by.get("AVB", []))
    off = [abs(r["by_draws"][key]["low"] - r[key]) for r in vae for key in ("kl", "marginal")]
    wide = [r["by_draws"][key]["high"] - r["by_draws"][key]["low"] for r in avb for key in ("kl", "marginal")]
    order = [r["by_draws"][key]["order"] for r in avb for key in ("kl", "marginal")]
    stderr = [r["by_draws"]["reconstruction"]["stderr"] for r in avb]
    above = sum(r["claimed_elbo"] > r["evidence"] for r in avb)
    return {
        "above": str(above),
        "trained": str(len(avb)),
        "off": f"{max(off):.4f}" if off else "–",
        "wide": f"{max(wide):.4f}" if wide else "–",
        "orders": f"{min(order):.1f} to {max(order):.1f}" if order else "–",
        "stderr": f"{max(stderr):.4f}" if stderr else "–",
    }


def page(by: Runs, shown: int, said: Sequence[str] = ()) -> str:
    """The results as Markdown; ``shown`` is the seed in the figure, ``said`` what else is to be known of the runs."""
    best, more = f"−{math.log(4):.4f}", "".join(f"{text}\n\n" for text in said)
    return PAGE.format(figures=figures(by), seeds=seeds(by), shown=shown, best=best, more=more, **checks(by))


PAGE = """# Four observations, a code of two dimensions: do the posteriors tile the prior?

Made by `advae reproduce toy`, after the synthetic example of Mescheder, Nowozin and Geiger (2017). The data are the
four one-hot vectors of length 4, a quarter each. No model can give them more than log p(x) = −log 4 = {best} on
average, and one that does has four posteriors without overlap that fill the prior together. Four normals cannot.

{more}![the four posteriors](toy.png)

Seed {shown}. Above, draws of the encoder, a colour for each observation; below, the true posteriors of its decoder.
Circles hold 50, 90 and 99 % of the prior.

## Figures

Nats, means over the four observations; median over seeds [the worst].

{figures}

- *log p(x)*: of the decoder, by a sum over a grid of 512² points over [−5, 5]²; *inference gap*: what the ELBO lacks
  of it. *Reconstruction*: −E log p(x|z).
- *KL(q(z) ‖ p)*: of the mean of the four posteriors from the prior: what the tiling leaves empty or fills twice.
- *Overlap*: H(x|z) for a code drawn by the encoder, the doubt about whose it is: 0 for tiles, log 4 for four that are
  the same. *True overlap*: of the true posteriors.
- Minutes on one busy core.

{seeds}

## How sure

The VAE's figures are exact but for the grid. AVB's encoder is known by draws: four million of each posterior, counted
in 512² cells of the same prior mass, with Grassberger's correction. Cells lose what happens inside them, so a
divergence found so is too low; what halving the cells once has gained is added again, and the table has the cautious
end, the divergences *at most* and the ELBO *at least*. Between the ends lie at most {wide} nats (order of convergence
{orders}: 2 at jumps, 4 where smooth). The same counting of the VAE's draws is at most {off} off what is exact. The
reconstruction by draws has a standard error of {stderr}.

*ELBO (critic)*: the bound with the critic's own estimate of the KL. Where the critic errs low this is too high, above
log p(x) itself with {above} of {trained} seeds: an adversarial estimate, not a bound.

## How trained

As in the paper: encoder and decoder of 3 × 64 ELU units, 64 noise numbers for AVB's encoder, two critic updates a step,
the contrast with the prior, whose density the critic is given. Not as there: the critic is 3 × 128 ELU (there five
residual blocks of 256), the rates are 1e-3 and 2e-3, down a half cosine (2e-5 and 1e-4), a step sees 64 of each
observation (512 at random), and there are 8,000 steps, so that a run takes minutes; the weights are averaged with decay
0.999. The VAE has the same networks, rate, steps and batches. Settings were chosen by AVB's seed 0.
"""


# --- the figure ---------------------------------------------------------------------------------------------


DPI = 140  # shades and thousands of dots make a large file
WINDOW = 3.5
SHARES = (0.5, 0.9, 0.99)  # of the prior, inside the circles


def figure(panels: dict[str, Panels], reach: float) -> bytes:
    """A column a method: draws of its encoder ``[4, S, 2]`` above its true posteriors ``[4, bins, bins]``."""
    with LIGHT.context():
        sheet = new_figure(WIDTH, 7.35)
        sheet.set_dpi(DPI)
        grid = np.asarray(sheet.subplots(2, max(len(panels), 1), sharex=True, sharey=True, squeeze=False))
        for (upper, lower), (name, found) in zip(grid.T, panels.items(), strict=False):
            dots(upper, found["draws"])
            lower.imshow(
                painted(found["true"]),
                extent=(-reach, reach, -reach, reach),
                origin="lower",
                interpolation="bilinear",
            )
            upper.set_title(f"{name}: the encoder")
            lower.set_title(f"{name}: the true posteriors of its decoder")
            for panel in (upper, lower):
                frame(panel)
        marks = [
            Line2D([], [], color=colour, marker="o", ms=5, ls="", label=f"$x_{i}$")
            for i, colour in enumerate(LIGHT.classes[:4], 1)
        ]
        circle = Line2D([], [], color=LIGHT.ink, lw=0.5, alpha=0.55, label="50, 90, 99 % of the prior")
        sheet.legend(handles=[*marks, circle], loc="outside upper left", ncols=5, handletextpad=0.4)
        return png(sheet)


def dots(panel: Axes, draws: FloatArray) -> None:
    """The draws ``[4, S, 2]`` in a random order, so that no colour lies over the others."""
    order = np.random.default_rng(0).permutation(draws.shape[0] * draws.shape[1])
    colours = np.repeat([to_rgb(c) for c in LIGHT.classes[: len(draws)]], draws.shape[1], axis=0)
    x, y = draws.reshape(-1, 2)[order].T
    panel.scatter(x, y, s=4.0, c=colours[order], alpha=0.55, lw=0)


def painted(mass: FloatArray) -> FloatArray:
    """Masses ``[4, bins, bins]`` as colours ``[bins, bins, 4]``, rows from below: mixed where they overlap.

    The hue says whose it is, the opacity how dense their mean is: that of the prior if they tile it.
    """
    mean = mass.sum(0)
    share = mass / np.maximum(mean, np.finfo(mean.dtype).tiny)
    hue = np.einsum("iab,ic->bac", share, np.array([to_rgb(c) for c in LIGHT.classes[: len(mass)]]))
    opacity = np.sqrt(mean / mean.max()).T
    return np.concatenate([np.clip(hue, 0, 1), opacity[..., None]], axis=2)


def frame(panel: Axes) -> None:
    """Contours of the prior, and a square window."""
    t = np.linspace(0, 2 * math.pi, 361)
    for share in SHARES:
        radius = math.sqrt(-2 * math.log(1 - share))
        panel.plot(radius * np.cos(t), radius * np.sin(t), color=LIGHT.ink, lw=0.5, alpha=0.55)
    panel.set(aspect="equal", xlim=(-WINDOW, WINDOW), ylim=(-WINDOW, WINDOW))
    panel.set(xticks=[-3, 0, 3], yticks=[-3, 0, 3])
    panel.grid(False)
