"""``advae evaluate``: figures that say what they are, how sure they are, and how they were made."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from advae.cli.base import SPLITS, Parser, add_model, add_output, add_run, count, one_of, seed
from advae.cli.output import print_estimates, print_json, say
from advae.cli.subject import allow_packages, run_data

if TYPE_CHECKING:
    from advae.data import Dataset

EXAMPLES = """\
  advae evaluate runs/mine
  advae evaluate runs/mine --json
  advae evaluate runs/mine --split validation --importance 256 --limit 1000
  advae evaluate runs/mine --likelihood elbo,iwae,ais --limit 256"""


def parser() -> Parser:
    """Its arguments."""
    made = Parser(
        "evaluate",
        "Judge a run: reconstruction error in nats and in grey levels; ELBO and importance-weighted bound"
        " where the encoder has a density; where it has none, the critic's adversarial estimate, which is not"
        " a bound. Writes eval/estimates.json.",
        EXAMPLES,
        usage="RUN [--json] [option …]",
    )
    add_run(made)
    add = made.add_argument
    add(
        "--split",
        metavar="NAME",
        type=one_of(*SPLITS),
        default="test",
        help="test (default), validation or train",
    )
    add(
        "--likelihood",
        metavar="LIST",
        default="elbo,iwae",
        help="of elbo, iwae and ais, with commas (elbo,iwae); ais anneals, for minutes to hours: see --limit",
    )
    add("--chains", metavar="N", type=count, default=16, help="chains an image of ais (16)")
    add("--temperatures", metavar="N", type=count, default=1000, help="temperatures of ais (1000)")
    add(
        "--importance",
        metavar="K",
        type=seed,
        default=64,
        help="codes an image of IWAE-K (64); 0 leaves it out",
    )
    add("--draws", metavar="N", type=count, default=16, help="codes an image of the ELBO (16)")
    add("--limit", metavar="N", type=count, help="the first so many examples only")
    add("--seed", metavar="N", type=seed, default=0, help="of every draw (default: 0)")
    add_model(made)
    add_output(made, "one object with a list of estimates")
    return made


@contextmanager
def _annealing(args: argparse.Namespace, data: Dataset, wanted: bool) -> Iterator[Callable[[], None]]:
    """A progress bar over the transitions of annealing; nothing where there is none."""
    if not wanted:
        yield lambda: None
        return
    from advae.evaluation.annealing import ticks
    from advae.evaluation.observed import Observed
    from advae.training.progress import Progress

    observed = Observed(data, args.split, limit=args.limit)
    total = ticks(observed, args.chains, args.temperatures)
    with Progress(total, quiet=args.quiet or args.json, label="annealing") as progress:
        yield lambda: progress.update(progress.step + 1, {})


def run(args: argparse.Namespace) -> int:
    """Evaluate, write, print."""
    allow_packages(args.allow)
    from advae.evaluation import evaluate
    from advae.run import Run
    from advae.training.environment import find_device

    opened = Run.open(args.run)
    device = str(find_device(args.device))
    model = opened.model(device)
    data = run_data(opened, args)
    names = [name.strip() for name in args.likelihood.split(",") if name.strip()]
    with _annealing(args, data, "ais" in names) as tick:
        estimates = evaluate(
            model,
            data,
            likelihood=names,
            split=args.split,
            importance=args.importance,
            draws=args.draws,
            chains=args.chains,
            temperatures=args.temperatures,
            seed=args.seed,
            limit=args.limit,
            tick=tick,
        )
    found = estimates.to_dict()
    opened.write_estimates(found)
    for name, values in estimates.images.items():
        opened.write_arrays(f"eval/{name}.npz", {key: value.numpy() for key, value in values.items()})
    if args.json:
        print_json(found)
        return 0
    print_estimates(found["estimates"])
    say(args, f"written to {opened.path / 'eval' / 'estimates.json'}; the page: advae report {opened.path}")
    return 0
