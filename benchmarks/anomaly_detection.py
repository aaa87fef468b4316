"""Anomaly detection by score: one class of a table at a time is left out of training and must score lower.

    python benchmarks/anomaly_detection.py --out runs/anomalies [--tables FILE.csv …] [--recipes vae-table avb-table]

Tables are wine, breast cancer and digits of scikit-learn, and CSV files with a column `class`. For each class of at
least MIN_ANOMALIES rows: 70 % of the other rows train the recipe as it is; the rest and the class are scored. AUROC of
the importance-weighted bound, of the reconstruction error, of scikit-learn's IsolationForest (defaults), and of PCA's
reconstruction error with as many components as the model has latents, of standardized columns. Tables are means over
the classes. Written to results/anomalies.json and results/anomalies.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn import datasets
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from timing import RESULTS, markdown_table, page_head

from advae.data import DataOptions, from_arrays
from advae.training.train import train_or_resume

BUILT_IN = {
    "wine": datasets.load_wine,
    "breast cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
}
MIN_ANOMALIES, TRAINING_SHARE = 10, 0.7
DETECTORS = ("log_prob", "rmse", "IsolationForest", "PCA")


def tables(files: list[Path]) -> dict[str, tuple[pd.DataFrame, np.ndarray]]:
    """Return columns and classes of every table, by name."""
    loaded = {name: (load(as_frame=True).data, load().target) for name, load in BUILT_IN.items()}
    for file in files:
        frame = pd.read_csv(file)
        loaded[file.stem] = frame.drop(columns="class"), frame["class"].to_numpy()
    return loaded


def detect(recipe: str, x: pd.DataFrame, is_anomaly: np.ndarray, folder: Path) -> dict[str, float]:
    """Return the AUROC of every detector for one class of anomalies."""
    normal = np.random.default_rng(0).permutation(np.flatnonzero(~is_anomaly))
    train, test = np.split(normal, [int(TRAINING_SHARE * len(normal))])
    rows = np.concatenate([test, np.flatnonzero(is_anomaly)])
    data = from_arrays(x.iloc[train], DataOptions(preprocessing="standardize"))
    run = train_or_resume(recipe, out=folder, quiet=True, data=data)
    model = run.model()
    scores = model.score(x.iloc[rows])
    scaler = StandardScaler().fit(x.iloc[train])
    a, b = scaler.transform(x.iloc[train]), scaler.transform(x.iloc[rows])
    pca = PCA(min(model.latent_dim, min(a.shape) - 1)).fit(a)
    errors = np.square(pca.inverse_transform(pca.transform(b)) - b).sum(1)
    forest = IsolationForest(random_state=0).fit(a)
    values = (-np.asarray(scores.log_prob), np.asarray(scores.rmse), -forest.score_samples(b), errors)
    return {
        name: float(roc_auc_score(is_anomaly[rows], np.nan_to_num(v)))
        for name, v in zip(DETECTORS, values, strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/anomalies"), help="folder of the runs")
    parser.add_argument("--tables", type=Path, nargs="*", default=[], help="CSV files with a column class")
    parser.add_argument("--recipes", nargs="*", default=["vae-table"])
    options = parser.parse_args()
    rows = []
    for name, (x, classes) in tables(options.tables).items():
        for recipe in options.recipes:
            aurocs = []
            for value in np.unique(classes):
                is_anomaly = classes == value
                if is_anomaly.sum() >= MIN_ANOMALIES:
                    folder = options.out / recipe / f"{name.replace(' ', '-')}-{value}"
                    aurocs.append(detect(recipe, x, is_anomaly, folder))
            means = {key: float(np.mean([a[key] for a in aurocs])) for key in DETECTORS}
            rows.append({"table": name, "recipe": recipe, "classes": len(aurocs), **means})
            print(json.dumps(rows[-1]), flush=True)
    (RESULTS / "anomalies.json").write_text(json.dumps(rows, indent=1) + "\n")
    header = ["table", "recipe", "classes", "score", "error", "IsolationForest", "PCA"]
    cells = [[r["table"], r["recipe"], str(r["classes"]), *(f"{r[k]:.3f}" for k in DETECTORS)] for r in rows]
    (RESULTS / "anomalies.md").write_text(
        "\n".join([*page_head("Anomaly detection by score", __doc__), *markdown_table(header, cells)]) + "\n"
    )


if __name__ == "__main__":
    main()
