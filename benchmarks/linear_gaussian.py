"""Every method trained from scratch on data whose evidence and posteriors are known, seeds 0 to 4.

    python benchmarks/linear_gaussian.py --out runs/linear-gaussian

Trains each method with each seed (a finished run is not trained again), measures how far encoder and decoder are from
the exact posterior and evidence (``known_gaussian.py``), and writes results/linear-gaussian.json, .md and .png from
all runs found in --out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from known_gaussian import CODES, DRAWS, IMAGES, REPEATS, D, Linear, N, codes, learned, made, measure, truth
from torch import Tensor

import advae
from advae.errors import AdvaeError
from advae.files import read_json, write_atomically, write_json
from advae.training.config import merge

NAME = "linear-gaussian"
RESULTS = Path(__file__).parents[1] / "results"
SEEDS = range(5)
TUNED, SHOWN = 0, 1  # settings were chosen on the first seed, so the figure shows the next

BASE: dict[str, Any] = {
    "recipe": NAME,
    "device": "cpu",
    "data": {"protocol": "standardise", "validation": 10_000, "test": 10_000},
    "model": {
        "latent": D,
        "encoder": {"name": "mlp", "hidden": [64, 64]},
        "posterior": {"name": "normal"},
        "decoder": {"name": "mlp", "hidden": []},
        "likelihood": {"name": "normal", "variance": "shared"},
        "critic": {"name": "concat", "hidden": [128, 128], "near_zero": True},
    },
    "train": {
        "steps": 6000,
        "batch": 512,
        "rate": 2e-3,
        "critic_rate": 4e-3,
        "schedule": "cosine",
        "samples_every": 0,
        "validate_every": 6000,
    },
}
IMPLICIT = {"name": "implicit", "noise": 8}
BASIS = {"name": "noise-basis", "functions": 4, "noise": 8, "hidden": [32]}
AVB = {"name": "avb", "critic_steps": 2}

CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    "vae": ("VAE", {"method": {"name": "vae"}, "train": {"rate": 5e-3}}),
    "avb": ("AVB", {"method": AVB, "model": {"posterior": IMPLICIT}, "train": {"rate": 1e-3}}),
    "avb-ac": ("AVB + AC", {"method": AVB | {"contrast": "diagonal"}, "model": {"posterior": BASIS}}),
    "avb-ac-full": ("AVB + AC, full", {"method": AVB | {"contrast": "full"}, "model": {"posterior": BASIS}}),
    "asvae": ("AS-VAE", {"method": {"name": "asvae", "critic_steps": 2}}),
    "ali": ("ALI", {"method": {"name": "ali", "critic_steps": 2}}),
    "bavae": (
        "BAVAE",
        {
            "method": {"name": "bavae", "critic_steps": 2},
            # As many noise numbers as features: the linear decoder can then have any covariance.
            "model": {"posterior": IMPLICIT, "likelihood": {"name": "implicit", "noise": N}},
        },
    ),
}
# Of standard deviations (a share) and of evidence (nats), in the median over seeds.
TARGETS = {"avb-ac": (0.03, 0.02), "avb": (0.05, 0.05)}


# --- runs ---------------------------------------------------------------------------------------------------


def trained(choice: str, seed: int, folder: Path, steps: int | None) -> Any:
    """The run of a method and a seed: found if it is finished, gone on with if it was stopped, else trained."""
    out = folder / choice / f"s{seed}"
    if not (out / "config.yaml").exists():
        tree = merge(merge(BASE, {"data": {"source": str(made(folder))}}), CHOICES[choice][1])
        options = {"seed": seed} | ({"train.steps": steps} if steps else {})
        return advae.train(tree, options=options, out=out, quiet=True)
    run = advae.Run.open(out)
    if run.model().info["step"] < run.config["train"]["steps"]:
        run = advae.resume(out, quiet=True)
    return run


def one(choice: str, seed: int, folder: Path, steps: int | None, again: bool) -> dict[str, Any]:
    """Train (or find) one run and measure it; ``measured.json`` in its folder keeps the result."""
    kept = folder / choice / f"s{seed}" / "measured.json"
    if kept.exists() and not again:
        return read_json(kept)
    result: dict[str, Any] = {"method": choice, "seed": seed}
    try:
        run = trained(choice, seed, folder, steps)
    except AdvaeError as error:
        return result | {"error": str(error)}
    last = [row for row in run.metrics() if row["split"] == "train"][-1]
    result |= {"steps": last["step"], "seconds": last["time"], **measure(run)}
    config, env = run.config, run.env
    config["data"].pop("source")  # where it lies; the checksum says what it is
    result |= {"config": {key: config[key] for key in ("data", "model", "method", "train")}}
    result |= {"device": env["device"], "versions": env["versions"], "checksum": env["data"]["checksum"]}
    write_json(kept, result)
    return result


def found_in(folder: Path) -> list[dict[str, Any]]:
    """What is measured of all runs so far, in the order of ``CHOICES``."""
    kept = [folder / choice / f"s{seed}" / "measured.json" for choice in CHOICES for seed in SEEDS]
    return [read_json(path) for path in kept if path.exists()]


# --- the page -----------------------------------------------------------------------------------------------


def spread(runs: list[dict[str, Any]], value: Callable[[dict[str, Any]], float], form: str) -> str:
    """Median over seeds and, in brackets, the one farthest from zero."""
    values = [value(r) for r in runs]
    return f"{np.median(values):{form}} [{max(values, key=abs):{form}}]" if values else "–"


COLUMNS: dict[str, tuple[Callable[[dict[str, Any]], float], str]] = {
    "std, %": (lambda r: 100 * r["true"]["std"], ".1f"),
    "mean, sd": (lambda r: r["true"]["mean"], ".3f"),
    "covariance, %": (lambda r: 100 * r["true"]["cov"], ".1f"),
    "std, own, %": (lambda r: 100 * r["own"]["std"], ".1f"),
    "mean, own, sd": (lambda r: r["own"]["mean"], ".3f"),
    "covariance, own, %": (lambda r: 100 * r["own"]["cov"], ".1f"),
    "evidence gap, nats": (lambda r: r["evidence_gap"], ".4f"),
    "inference gap, nats": (lambda r: r["inference_gap"], ".4f"),
    "code, nats": (lambda r: r["kl"], ".2f"),
    "minutes": (lambda r: r["seconds"] / 60, ".1f"),
}


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def distances(by: dict[str, list[dict[str, Any]]]) -> list[str]:
    rows = []
    for choice, runs in by.items():
        good = [r for r in runs if "error" not in r]
        cells = [spread(good, value, form) for value, form in COLUMNS.values()]
        rows.append([CHOICES[choice][0], f"{len(good)} of {len(runs)}", *cells])
    return table(["", "trained", *COLUMNS], rows)


def critics(by: dict[str, list[dict[str, Any]]]) -> list[str]:
    rows = []
    for choice, runs in by.items():
        judged = [r["critic"] for r in runs if r.get("critic")]
        if judged:
            exact = float(np.median([c["exact"] for c in judged]))
            claim = float(np.median([c["claimed"] for c in judged]))
            error = spread(judged, lambda c: c["claimed"] - c["exact"], "+.4f")
            rows.append([CHOICES[choice][0], judged[0]["of"], f"{claim:.4f}", f"{exact:.4f}", error])
    return table(["", "divergence", "claimed, nats", "is, nats", "claimed − is"], rows)


def reached(choice: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """A target beside the medians: standard deviations against both references, the worse of them counts."""
    std, evidence = TARGETS[choice]
    found = max(float(np.median([r[which]["std"] for r in runs])) for which in ("own", "true"))
    gap = float(np.median([r["evidence_gap"] for r in runs]))
    met = found <= std and gap <= evidence
    return {"method": choice, "std": [std, found], "evidence": [evidence, gap], "met": met}


def targets(by: dict[str, list[dict[str, Any]]]) -> list[str]:
    rows = []
    for choice in TARGETS:
        if choice in by:
            t = reached(choice, [r for r in by[choice] if "error" not in r])
            cells = [f"{100 * v:.1f} %" for v in t["std"]] + [f"{v:.4g} nat" for v in t["evidence"]]
            rows.append([CHOICES[choice][0], *cells, "met" if t["met"] else "not met"])
    return table(["", "std within", "reached", "evidence within", "reached", ""], rows)


def page(runs: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    by = {choice: [r for r in runs if r["method"] == choice] for choice in CHOICES}
    by = {choice: mine for choice, mine in by.items() if mine}
    exact = truth()[0]
    stds = torch.linalg.eigvalsh(exact.C).sqrt()
    rate = -float(stds.log().sum())
    given = {"small": f"{stds[0]:.2f}", "large": f"{stds[1]:.2f}", "rate": f"{rate:.2f}"}
    parts = {"distances": distances(by), "critics": critics(by), "targets": targets(by)}
    return PAGE.format(**given, **{name: "\n".join(lines) for name, lines in parts.items()})


PAGE = """# Every method on data whose posterior and evidence are known

TODO
"""


# --- the figure ---------------------------------------------------------------------------------------------


def figure(folder: Path, runs: list[dict[str, Any]]) -> bytes:
    """Codes of four test examples by each method, over the exact posteriors."""
    from advae.report.base import LIGHT, WIDTH, new_figure, png

    done = {r["method"] for r in runs if r["seed"] == SHOWN and "error" not in r}
    shown = [choice for choice in CHOICES if choice in done]
    with LIGHT.context():
        sheet = new_figure(WIDTH, 3.9)
        panels = list(sheet.subplots(2, 4, sharex=True, sharey=True).flat)
        for panel, choice in zip(panels, shown, strict=False):
            z, exact, x = drawn(folder / choice / f"s{SHOWN}")
            for colour, points, centre in zip(LIGHT.classes, z.unbind(1), exact.mean(x), strict=False):
                panel.scatter(*points.T.numpy(), s=3.0, color=colour, alpha=0.45, lw=0)
                for share in (0.5, 0.95):
                    panel.plot(*contour(centre, exact.C, share), color=LIGHT.ink, lw=0.7)
            panel.set(title=CHOICES[choice][0], aspect="equal", xlim=(-2.7, 2.7), ylim=(-2.7, 2.7))
            panel.set(xticks=[-2, 0, 2], yticks=[-2, 0, 2])
        for panel in panels[len(shown) :]:
            panel.set_axis_off()
        panels[-1].text(-2.3, 0, KEY, va="center", color=LIGHT.muted, fontsize=8.5, linespacing=1.5)
        return png(sheet)


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
    exact = truth()[0].observed(data.protocol.mean, data.protocol.std)
    held_out = data.protocol.observe(data.test.values)
    places = 1.15 * torch.tensor([[-1, -1], [-1, 1], [1, -1], [1, 1]], dtype=torch.float64)
    x = held_out[torch.cdist(places, exact.mean(held_out)).argmin(1)]
    R = learned(model).turn(exact)
    return codes(model, x, 512)[:300] @ R.T, exact, x


def contour(centre: Tensor, C: Tensor, share: float) -> np.ndarray:
    """The ellipse that holds a share of ``N(centre, C)``, ``[2, 181]``: of radius √(−2 log(1 − share))."""
    t = torch.linspace(0, 2 * math.pi, 181, dtype=torch.float64)
    circle = math.sqrt(-2 * math.log(1 - share)) * torch.stack([t.cos(), t.sin()])
    return (centre[:, None] + torch.linalg.cholesky(C) @ circle).numpy()


def publish(folder: Path) -> None:
    """Write the three files of results from all runs so far."""
    runs, exact = found_in(folder), truth()[0]
    good = {c: [r for r in runs if r["method"] == c and "error" not in r] for c in TARGETS}
    about = {
        "data": {
            "draws": DRAWS,
            "W": exact.W.tolist(),
            "noise_variance": float(exact.S[0, 0]),
            "posterior_covariance": exact.C.tolist(),
            "sha256": hashlib.sha256((folder / "data.npy").read_bytes()).hexdigest(),
        },
        "protocol": {"images": IMAGES, "codes": CODES, "repeats": REPEATS},
        "targets": [reached(choice, mine) for choice, mine in good.items() if mine],
        "runs": runs,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{NAME}.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    (RESULTS / f"{NAME}.md").write_text(page(runs))
    write_atomically(RESULTS / f"{NAME}.png", figure(folder, runs))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs") / NAME)
    parser.add_argument("--methods", nargs="*", choices=list(CHOICES), default=list(CHOICES))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--steps", type=int, help=f"instead of {BASE['train']['steps']}")
    parser.add_argument("--again", action="store_true", help="measure finished runs again")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for seed in args.seeds:
        for choice in args.methods:
            r = one(choice, seed, args.out, args.steps, args.again)
            print(
                choice, seed, r.get("error") or (r["own"], r["true"]["std"], r["evidence_gap"], r["critic"])
            )
            sys.stdout.flush()
    publish(args.out)


if __name__ == "__main__":
    main()
