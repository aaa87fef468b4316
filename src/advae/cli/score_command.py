"""``advae score``: how probable single examples are, and how unusual next to the run's test data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING, Any

from advae.cli.console import log, print_facts, print_json, print_table, write_csv
from advae.cli.loaded_model import Examples, LoadedModel, load_run_data, open_examples
from advae.cli.parser import Count, ExampleOptions, FilePath, Parser
from advae.errors import DataError
from advae.formatting import MISSING, Table, format_with_error

if TYPE_CHECKING:
    from advae.evaluation.score import Scores

SUMMARY = "score single examples: log p(x), reconstruction error, anomalies"
EXAMPLES = """
advae score runs/mine
advae score runs/mine new_images/ --out scores.csv
advae score runs/mine table.csv --top 10
advae score runs/mine image.png --json
"""
MAX_REFERENCE_EXAMPLES = 1000  # test examples that percentiles refer to: their resolution is 0.1
NUM_MOST_UNUSUAL = 10  # in JSON
UNUSUAL_PERCENTILE = 1
QUANTILES = 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(ExampleOptions):
    """Score examples one by one; without PATH those of the run's test data. Columns: index or file; label, if any;
    log_prob, an importance-weighted lower bound on log p(x) of the preprocessed example in nats; bits_per_dim, for
    8-bit images; stderr of log_prob; rmse of the reconstruction, in gray levels or, for tables, in standard deviations
    of the columns; percentile, the percentage of the run's test examples (the first 1,000) with a lower log_prob: 0 is
    the most unusual, and 1 − percentile / 100 an anomaly score. Without a density, percentiles are those of −rmse."""

    samples: Count = 64
    """Latents per example; 1 is the ELBO."""
    limit: Count | None = None
    """Score the first N examples only."""
    top: Count | None = None
    """Print the N most unusual examples."""
    out: FilePath | None = None
    """Output file, .csv or .npz (default: scores.csv in the run directory; with PATH scores-NAME.csv)."""


def parser() -> Parser[ScoreOptions]:
    usage = "RUN [PATH | --split NAME] [--top N] [--out FILE] [option …]"
    return Parser("score", ScoreOptions, EXAMPLES, usage=usage)


def run(options: ScoreOptions) -> int:
    """Score, write, print."""
    from advae.evaluation.estimate import file_stem
    from advae.io import write_npz

    source = options.path or options.input
    stem = f"scores-{file_stem(source.rstrip('/').rsplit('/', 1)[-1])[:40]}" if source else "scores"
    loaded, examples, path = open_examples("score", options, stem, (".csv", ".npz"))
    reference, remark = _reference_scores(loaded, examples, options)
    count = min(len(examples.split), options.limit or len(examples.split))
    is_reference = not (source or options.data_source) and options.split in (None, "test")
    if is_reference and reference is not None and count <= len(reference):
        scores = reference.first(count)
    else:
        scores = _score(loaded, examples, count, options, "scoring")
    columns = _columns(examples, scores, reference)
    if path.suffix == ".npz":
        write_npz(path, columns, compress=True)
    else:
        write_csv(path, columns)
    order = scores.normality.argsort().tolist()
    summary = _summary(scores, columns, order[:NUM_MOST_UNUSUAL])
    about = {"data": examples.source, "split": examples.split.name, "rmse_unit": scores.unit}
    if options.json:
        counts = {"reference": len(reference) if reference is not None else None, "remark": remark or None}
        print_json({"path": str(path), "n": count, **about, "samples": options.samples, **counts, **summary})
        return 0
    print(path)
    _print_summary(scores, summary, columns)
    if options.top:
        print_table(_table(columns, order[: options.top]))
    if remark:
        log(options, remark)
    log(options, _next_step(options, source))
    return 0


def _reference_scores(
    loaded: LoadedModel, examples: Examples, options: ScoreOptions
) -> tuple[Scores | None, str]:
    """Return the scores of the run's own test data; or None, and why there are none."""
    from advae.evaluation.score import load_or_compute_scores

    if loaded.run is None:
        return None, "No percentiles: a saved model has no test data. Score with the run directory."
    recorded = (loaded.model.info.get("data") or {}).get("checksum")
    count = MAX_REFERENCE_EXAMPLES
    settings = {"data": recorded, "samples": options.samples, "seed": options.seed, "examples": count}

    def compute() -> Scores:
        assert loaded.run is not None
        data = examples.data or load_run_data(loaded.run, options.data_source)
        if recorded not in (None, data.checksum):
            raise DataError("They are not those of the training any more.", given=data.source)
        test = Examples(data.test, loaded.preprocessing, data.name)
        return _score(loaded, test, min(count, len(data.test)), options, "scoring the run's test data")

    try:
        return load_or_compute_scores(loaded.run, loaded.model, settings, compute), ""
    except DataError as error:
        what = f"No percentiles: the run's test data cannot be used. {error.what}"
        return None, f"{what} Say where they are with --data.source PATH."


def _score(loaded: LoadedModel, examples: Examples, count: int, options: ScoreOptions, label: str) -> Scores:
    """Return the scores of the first examples, with a progress bar."""
    from advae.evaluation.score import BATCH_SIZE, Scores, score
    from advae.progress import stage_progress

    parts = []
    with stage_progress(quiet=options.quiet or options.json)(label, count) as tick:
        for x in examples.batches(options.seed, BATCH_SIZE, count):
            parts.append(score(loaded.model, x, num_samples=options.samples, seed=options.seed))
            tick(len(x))
    return Scores.concatenate(parts)


def _columns(examples: Examples, scores: Scores, reference: Scores | None) -> dict[str, Any]:
    """Return the columns of the output by name."""
    import numpy as np

    n = len(scores)
    place = {"file": np.array(examples.names[:n])} if examples.names else {"index": np.arange(n)}
    labels = {name: values[:n] for name, values in examples.label_column().items()}
    percentile = np.full(n, np.nan) if reference is None else scores.percentiles(reference.normality)
    values = {**scores.columns(), "percentile": percentile}
    return {**place, **labels, **{name: np.asarray(v, np.float32) for name, v in values.items()}}


def _summary(scores: Scores, columns: Mapping[str, Any], most_unusual: list[int]) -> dict[str, Any]:
    """Return quantiles of the scores and the rows of the most unusual examples, as JSON."""
    import torch

    levels = torch.tensor(QUANTILES, dtype=torch.float64)
    quantiles = {
        name: dict(zip(map(str, QUANTILES), values.quantile(levels).tolist(), strict=True))
        for name, values in scores.columns().items()
        if name != "stderr"
    }
    means = {name: float(values.mean()) for name, values in scores.columns().items() if name != "stderr"}
    rows = [{name: values[i].item() for name, values in columns.items()} for i in most_unusual]
    return {"mean": means, "quantiles": quantiles, "most_unusual": rows}


def _print_summary(scores: Scores, summary: Mapping[str, Any], columns: Mapping[str, Any]) -> None:
    import numpy as np

    units = {"log_prob": "nats", "bits_per_dim": "", "rmse": scores.unit}
    facts: dict[str, object] = {"examples": len(scores)}
    for name, levels in summary["quantiles"].items():
        middle, low, high = (levels[str(level)] for level in (0.5, 0.05, 0.95))
        spread = f"(median; 90 % from {low:.4g} to {high:.4g})" if len(scores) > 1 else ""
        facts[name] = " ".join(filter(None, (f"{middle:.4g}", units[name], spread)))
    percentiles = columns["percentile"]
    if not np.isnan(percentiles).any():
        is_low = percentiles < UNUSUAL_PERCENTILE
        few = f"{is_low.sum()} below percentile {UNUSUAL_PERCENTILE} of the run's test data"
        facts["percentile"] = few if len(scores) > 1 else f"{percentiles[0]:.4g}"
    print_facts(facts)


def _table(columns: Mapping[str, Any], rows: list[int]) -> Table:
    """Return rows of the output as a table for people."""
    import numpy as np

    def text(name: str, i: int) -> str:
        value = columns[name][i]
        if name == "log_prob":
            return format_with_error(float(value), float(columns["stderr"][i]))
        if np.asarray(value).dtype.kind == "f":
            return MISSING if np.isnan(value) else f"{float(value):.4g}"
        return str(value.item())

    names = [name for name in columns if name != "stderr"]
    return Table.from_texts(names, [[text(name, i) for name in names] for i in rows], right=names[1:])


def _next_step(options: ScoreOptions, source: str | None) -> str:
    """Return what to do next."""
    run, data = quote(options.run), f" {quote(source)}" if source else ""
    if options.top is None:
        return f"next: advae score {run}{data} --top 10 prints the most unusual examples"
    return f"next: advae reconstruct {run} PATH shows what the model makes of one of them"
