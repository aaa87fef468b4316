"""``advae evaluate``: estimates with standard errors, kinds and protocols."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from shlex import quote

from advae.cli.console import log, print_estimates, print_json
from advae.cli.loaded_model import allow_packages, load_run_data
from advae.cli.parser import Count, Parser, RunOptions, RunPath, Seed, Split
from advae.evaluation.eval_config import EvalConfig
from advae.progress import stage_progress

SUMMARY = "evaluate a run: reconstruction, likelihood, samples, diagnostics"
EXAMPLES = """
advae evaluate runs/mine
advae evaluate runs/mine --json
advae evaluate runs/mine --samples fid,is,neighbors
advae evaluate runs/mine --likelihood elbo,iwae,ais,bdmc --iwae-samples 5000 --limit 256
torchrun --nproc-per-node 4 -m advae evaluate runs/mine --likelihood ais      # examples are shared out
"""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(RunOptions):
    """Evaluate a run. Every estimate has its kind (a bound, an error, or an estimate by critics), its standard error
    and its protocol. Writes eval/estimates.json and, per example, eval/*.npz. Interrupted, the same command continues.
    --json prints one object with lists of estimates and remarks."""

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


def parser() -> Parser[EvaluateOptions]:
    return Parser(
        "evaluate",
        EvaluateOptions,
        EXAMPLES,
        usage="RUN [--json] [option …]",
        groups={"config": "metrics", "annealing": "ais and bdmc"},
        flags={"init": "--ais-init"},
        hidden=("strict", "estimator_options"),
    )


def run(options: EvaluateOptions) -> int:
    """Evaluate, write, print."""
    allow_packages(options.allow)
    from advae.devices import find_device
    from advae.evaluation.evaluate import evaluate_run
    from advae.run import Run

    run_dir = Run.open(options.run)
    device = find_device(
        options.device, os.environ.get("LOCAL_RANK")
    )  # under torchrun a GPU for each process
    model = run_dir.model(str(device))
    data = load_run_data(run_dir, options.data_source)
    with _process_group() as rank:
        stage = stage_progress(quiet=options.quiet or options.json or rank > 0)
        try:
            subset = {"split": options.split, "limit": options.limit, "seed": options.seed}
            result = evaluate_run(run_dir, model, data, options.config, stage=stage, **subset).to_dict()
        except KeyboardInterrupt as stop:
            stop.args = ("Interrupted; the same command continues.",)
            raise
    if rank > 0:
        return 0
    if options.json:
        print_json(result)
        return 0
    print_estimates(result["estimates"], result["remarks"])
    report = f"advae report {quote(str(run_dir.path))}"
    log(options, f"written to {run_dir.path / run_dir.eval_folder / 'estimates.json'}; report: {report}")
    return 0


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
