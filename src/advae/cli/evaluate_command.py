"""``advae evaluate``: estimates with standard errors, kinds and protocols."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

from advae.cli.console import log, print_estimates, print_json
from advae.cli.loaded_model import LoadedModel, allow_packages, load_examples, load_run_data
from advae.cli.parser import HIDDEN, Count, ExampleOptions, Parser, RunOptions, RunPath, Seed, Split
from advae.errors import ConfigError, DataError, nearest
from advae.evaluation.eval_config import EvalConfig
from advae.progress import stage_progress

if TYPE_CHECKING:
    from advae.data import Dataset
    from advae.evaluation.eval_data import OtherExamples
    from advae.model import LatentModel
    from advae.run import Run

SUMMARY = "evaluate a run: reconstruction, likelihood, samples, diagnostics"
EXAMPLES = """
advae evaluate runs/mine
advae evaluate runs/mine --json
advae evaluate runs/mine --samples fid,is,nearest-neighbors
advae evaluate runs/mine --data.source new_images/
advae evaluate runs/mine --likelihood elbo,iwae,ais,bdmc --iwae-samples 5000 --limit 256
torchrun --nproc-per-node 4 -m advae evaluate runs/mine --likelihood ais      # examples are shared out
"""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(RunOptions):
    """Evaluate a run. Every estimate has its kind (a bound, an error, or an estimate by critics), its standard error
    and its protocol. Writes eval/estimates.json and, per example, eval/*.npz. Interrupted, the same command continues.
    --json prints one object with lists of estimates and remarks, and the path of estimates.json.

    Other data than those of the run (--data.source) are scored as a whole, or their own test split if they have one.
    The result is written to eval-NAME-CHECKSUM/, and that of the run's own data is kept."""

    run: RunPath
    """Run directory."""
    split: Split = "test"
    """Part of the data: test, validation or train."""
    limit: Count | None = None
    """Use the first N examples only."""
    seed: Seed = 0
    """Seed of all random choices."""
    config: EvalConfig
    """What to evaluate."""
    overrides: Annotated[Mapping[str, str], HIDDEN] = field(default_factory=dict)
    """Options of likelihood estimators by dotted name."""


def parser() -> Parser[EvaluateOptions]:
    return Parser(
        "evaluate",
        EvaluateOptions,
        EXAMPLES,
        usage="RUN [--json] [option …]",
        groups={"config": "metrics", "annealing": "ais and bdmc"},
        flags={"init": "--ais-init"},
        hidden=("strict", "estimator_options"),
        overrides=(),
    )


def run(options: EvaluateOptions) -> int:
    """Evaluate, write, print."""
    allow_packages(options.allow)
    config = replace(options.config, estimator_options=_estimator_options(options.overrides))
    from advae.devices import find_device
    from advae.evaluation.evaluate import evaluate_run
    from advae.run import Run

    run_dir = Run.open(options.run)
    # Under torchrun there is a GPU for each process.
    model = run_dir.model(str(find_device(options.device, os.environ.get("LOCAL_RANK"))))
    data, other, folder = load_evaluation_data(run_dir, model, options)
    with _process_group() as rank:
        stage = stage_progress(quiet=options.quiet or options.json or rank > 0)
        split = "test" if other else options.split
        subset = {"split": split, "limit": options.limit, "seed": options.seed, "other": other}
        try:
            result = evaluate_run(
                run_dir, model, data, config, stage=stage, folder=folder, **subset
            ).to_dict()
        except KeyboardInterrupt as stop:
            stop.args = ("Interrupted; the same command continues.",)
            raise
    if rank > 0:
        return 0
    path = run_dir.path / folder / "estimates.json"
    if options.json:
        print_json(result | {"path": str(path)})
        return 0
    print_estimates(result["estimates"], result["remarks"])
    report = f"; report: advae report {quote(str(run_dir.path))}" if folder == run_dir.eval_folder else ""
    log(options, f"written to {path}{report}")
    return 0


def _estimator_options(overrides: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the options of each estimator of ``{"elbo-certified.chains": "8"}``, values read as YAML."""
    from advae.evaluation.likelihood.base import estimator_names
    from advae.safe_yaml import parse_yaml

    options: dict[str, dict[str, Any]] = {}
    for name, text in overrides.items():
        estimator, _, option = name.partition(".")
        if estimator not in estimator_names():
            fix = nearest(estimator, estimator_names())
            raise ConfigError(f"advae evaluate has no option '--{name}'.", fix=fix)
        options.setdefault(estimator, {})[option] = parse_yaml(text, f"--{name}")
    return options


def load_evaluation_data(
    run: Run, model: LatentModel, options: EvaluateOptions
) -> tuple[Dataset, OtherExamples | None, str]:
    """Return a data set, other examples to evaluate instead of its split, and the run's folder for the result.

    The run's own data, wherever they are, belong to ``eval``. Other data have a folder of their own. All of their
    examples are evaluated (or one of their own splits), next to the run's training data; if these cannot be loaded,
    the other data are split as for a training.
    """
    from advae.data.splits import checksum
    from advae.evaluation.estimate import file_stem
    from advae.evaluation.eval_data import OtherExamples

    data = load_run_data(run, options.data_source)
    if data.checksum == ((model.info.get("data") or {}).get("checksum") or data.checksum):
        return data, None, run.eval_folder
    other = None
    if options.data_source:
        try:
            own = load_run_data(run, None)
        except DataError:
            pass
        else:
            part = options.split if "split" in options.given else None
            selection = ExampleOptions(
                run=options.run, input=options.data_source, split=part, quiet=options.quiet
            )
            examples = load_examples(LoadedModel(model, run, run.path), selection)
            split = replace(examples.split, labels=None)  # their classes may not be those of the run
            if split.name == "train" and part is None:  # the only part
                split = replace(split, name="all")
            other = OtherExamples(examples.source, checksum([split]), split)
            data = own
    digest = (other or data).checksum.removeprefix("sampled-")[:8]
    return data, other, f"{run.eval_folder}-{file_stem((other or data).name)[:40]}-{digest}"


@contextmanager
def _process_group() -> Iterator[int]:
    """Join the processes that torchrun started, if it did; yield the rank of this one."""
    import torch.distributed as dist

    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not dist.is_available():
        yield 0
        return
    dist.init_process_group("gloo")  # results are gathered on the CPU, once per estimator
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()
