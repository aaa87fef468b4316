"""Every method on the embedded digits, seeds 0 to 4: stability of training and legibility of samples.

    python benchmarks/digits.py --out runs/digits --processes 2

Trains each *-digits recipe with each seed (a finished run is not trained again), evaluates it, and writes
results/digits.json, results/digits.md and a grid of samples of each method, one row per seed; with --recipes, rows of
other recipes stay as they are. *Legible* is the share
of 1,000 samples to which a kernel classifier of the real digits assigns a class with probability above 0.9; the share
of real test digits is the baseline. The worst seed of a method is the least legible one. *FD* is the Fréchet distance
of the pixels, in [0, 1], of 1,797 samples to all real digits.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

import advae
from advae.errors import AdvaeError
from advae.metrics.frechet import moments, normal_frechet_distance
from advae.training.train import train_or_resume

SEEDS = range(5)
MIN_PROBABILITY = 0.9
SAMPLES, NUM_DIGITS = 1000, 1797
GRID_COLUMNS = 16
RESULTS = Path(__file__).parents[1] / "results"


def fit_classifier(data: Any) -> Pipeline:
    """Return a classifier of the real digits, fitted to training and validation examples.

    Its kernel features vanish far from all examples, so images that are not digits have no confident class.
    """
    parts = (data.train, data.validation)
    x = np.concatenate([pixels(part.values.float()) for part in parts])
    y = np.concatenate([part.labels.numpy() for part in parts])
    kernel = Nystroem(gamma=0.2, n_components=800, random_state=0)
    return make_pipeline(kernel, LogisticRegression(C=10, max_iter=2000)).fit(x, y)


def pixels(gray: torch.Tensor) -> np.ndarray:
    """Return images in gray levels as rows in [0, 1]."""
    return gray.clamp(0, 255).flatten(1).cpu().numpy() / 255


def legible(classifier: Pipeline, rows: np.ndarray) -> float:
    """Return the share of images to which the classifier assigns a class with ``MIN_PROBABILITY``."""
    return float((classifier.predict_proba(rows).max(1) > MIN_PROBABILITY).mean())


def frechet_distance_to_data(rows: np.ndarray, data: Any) -> float:
    """Return the Fréchet distance of images to all examples of a data set, in pixels."""
    real = np.concatenate([pixels(part.values.float()) for part in (data.train, data.validation, data.test)])
    return normal_frechet_distance(*(moments(torch.from_numpy(images)) for images in (real, rows)))


def train_and_evaluate(recipe: str, seed: int, folder: Path, steps: int | None) -> dict[str, Any]:
    """Train one run, unless that is done, and evaluate it."""
    torch.set_num_threads(1)
    out = folder / recipe / f"s{seed}"
    options = {"seed": seed} | ({"train.steps": steps} if steps else {})
    result: dict[str, Any] = {"recipe": recipe, "seed": seed, "finite": True}
    try:
        run = train_or_resume(recipe, options=options, out=out, quiet=True)
    except AdvaeError as error:
        return result | {"finite": False, "error": str(error)}
    torch.manual_seed(0)  # for the samples below
    model = advae.load(out)
    data = advae.load_data(advae.DataOptions(**run.config["data"]))
    evaluation = advae.evaluate(model, data)
    classifier = fit_classifier(data)
    gray = data.preprocessing.to_gray(model.sample(NUM_DIGITS, seed=0))
    reconstructed = data.preprocessing.to_gray(
        model.reconstruct(data.preprocessing.apply(data.test.values), seed=0)
    )
    rows = [row for row in run.metrics() if row["split"] == "train"]
    z = torch.cat([model.encode(x).sample() for x in data.preprocessing.apply(data.train.values).split(512)])
    return result | {
        "finite": all(
            math.isfinite(value) for row in rows for value in row.values() if isinstance(value, float)
        ),
        "seconds": rows[-1]["time"],
        "estimates": evaluation.to_dict()["estimates"],
        "fd": frechet_distance_to_data(pixels(gray), data),
        "legible": legible(classifier, pixels(gray[:SAMPLES])),
        "legible_test": legible(classifier, pixels(data.test.values.float())),
        "read_right": float((classifier.predict(pixels(reconstructed)) == data.test.labels.numpy()).mean()),
        "code_std": [round(v, 3) for v in z.std(0).tolist()],
        "last": {key: value for key, value in rows[-1].items() if "/" in key},
    }


def write_sample_grid(recipe: str, folder: Path) -> None:
    """Write the first samples of each seed, one row per seed."""
    from advae.report.figures.image_grid import image_grid
    from advae.report.figures.style import to_png

    rows = []
    for seed in SEEDS:
        if (folder / recipe / f"s{seed}" / "model").exists():
            run = advae.Run.open(folder / recipe / f"s{seed}")
            data = advae.load_data(advae.DataOptions(**run.config["data"]))
            rows.append(data.preprocessing.to_gray(run.model().sample(GRID_COLUMNS, seed=0)))
    if rows:
        figure = image_grid(torch.cat(rows).numpy(), columns=GRID_COLUMNS)
        (RESULTS / f"digits-{recipe.removesuffix('-digits')}.png").write_bytes(to_png(figure))


def median(results: list[dict[str, Any]], name: str) -> str:
    """Return the median of an estimate over seeds, for the table."""
    values = [e["value"] for r in results for e in r["estimates"] if e["name"] == name]
    return f"{np.median(values):.1f}" if values else "–"


def median_distance(results: list[dict[str, Any]]) -> str:
    """Return the median Fréchet distance over seeds, for the table; older results have none."""
    values = [r["fd"] for r in results if "fd" in r]
    return f"{np.median(values):.2f}" if values else "–"


def page(results: list[dict[str, Any]]) -> str:
    """Return the table and the sample grids as Markdown."""
    lines = [
        "# Every method on the embedded digits",
        "",
        "Made by `benchmarks/digits.py`: scikit-learn's 8 × 8 digits, 180 test images, seeds 0 to 4;"
        " medians over seeds. *Legible*: share of 1,000 samples to which a classifier of the real digits assigns a"
        " class with probability above 0.9. *Classified correctly*: share of reconstructed test digits with the right"
        " class. *ELBO (critic)*: an adversarial estimate, not a bound. *FD*: Fréchet distance of the pixels of 1,797"
        " samples to all real digits.",
        "",
        "| recipe | finite | RMSE, gray levels | reconstruction, nats | ELBO, nats | ELBO (critic), nats | FD |"
        " legible | worst seed | classified correctly | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for recipe in sorted({r["recipe"] for r in results}):
        recipe_results = [r for r in results if r["recipe"] == recipe]
        complete = [r for r in recipe_results if "legible" in r]
        if not complete:
            lines.append(f"| {recipe} | 0 of {len(recipe_results)} | | | | | | | | | |")
            continue
        worst = min(complete, key=lambda r: r["legible"])
        cells = [median(complete, name) for name in ("rmse", "reconstruction", "elbo", "elbo (critic)")]
        lines.append(
            f"| {recipe} | {sum(r['finite'] for r in recipe_results)} of {len(recipe_results)} | {' | '.join(cells)}"
            f" | {median_distance(complete)} | {np.median([r['legible'] for r in complete]):.2f}"
            f" | {worst['seed']} ({worst['legible']:.2f})"
            f" | {np.median([r['read_right'] for r in complete]):.2f}"
            f" | {np.median([r['seconds'] for r in complete]):.0f} |"
        )
    baseline = next(r["legible_test"] for r in results if "legible_test" in r)
    lines += ["", f"Real test digits: legible {baseline:.2f}.", ""]
    for recipe in sorted({r["recipe"] for r in results}):
        name = recipe.removesuffix("-digits")
        lines += [
            f"## {recipe}",
            "",
            f"One row per seed, 0 to 4.\n\n![samples of {recipe}](digits-{name}.png)",
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/digits"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, help="instead of each recipe's own number")
    parser.add_argument("--recipes", nargs="*", help="instead of all")
    args = parser.parse_args()
    recipes = args.recipes or [name for name in advae.recipes() if name.endswith("-digits")]
    jobs = [(recipe, seed) for recipe in recipes for seed in SEEDS]
    with ProcessPoolExecutor(args.processes) as pool:
        futures = [
            pool.submit(train_and_evaluate, recipe, seed, args.out, args.steps) for recipe, seed in jobs
        ]
        results = []
        for job, future in zip(jobs, futures, strict=True):
            results.append(future.result())
            print(
                *job, {k: v for k, v in results[-1].items() if k in ("finite", "legible", "seconds", "error")}
            )
            sys.stdout.flush()
    RESULTS.mkdir(exist_ok=True)
    with suppress(FileNotFoundError):
        earlier = json.loads((RESULTS / "digits.json").read_text())
        results = [result for result in earlier if result["recipe"] not in recipes] + results
    (RESULTS / "digits.json").write_text(json.dumps(results, indent=1) + "\n")
    for recipe in recipes:
        write_sample_grid(recipe, args.out)
    (RESULTS / "digits.md").write_text(page(results))


if __name__ == "__main__":
    main()
