"""``advae evaluate``: figures that say what they are, how sure they are, and how they were made."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from shlex import quote
from typing import TYPE_CHECKING, Any

from advae.cli.console import print_estimates, print_json, say
from advae.cli.loaded_model import allow_packages, run_data, watched
from advae.cli.parser import SPLITS, Parser, add_model, add_output, add_run, count, one_of, seed

if TYPE_CHECKING:
    import torch

EXAMPLES = """\
  advae evaluate runs/mine
  advae evaluate runs/mine --json
  advae evaluate runs/mine --samples fid,is,neighbours
  advae evaluate runs/mine --likelihood elbo,iwae,ais,bdmc --importance 5000 --limit 256
  torchrun --nproc-per-node 4 -m advae evaluate runs/mine --likelihood ais      # images shared out"""


def parser() -> Parser:
    """Its arguments."""
    made = Parser(
        "evaluate",
        "Judge a run. Every figure says its kind (a bound, an error, or a critic's opinion), its standard error"
        " and how it was made. Writes eval/estimates.json and, for each image, eval/*.npz. Stopped, the same"
        " command goes on where it was.",
        EXAMPLES,
        usage="RUN [--json] [option …]",
    )
    add_run(made)
    add = made.add_argument
    text = "test (default), validation or train"
    add("--split", metavar="NAME", type=one_of(*SPLITS), default="test", help=text)
    add("--limit", metavar="N", type=count, help="the first so many examples only")
    add("--seed", metavar="N", type=seed, default=0, help="of every draw (default: 0)")

    add = made.add_argument_group("log p(x)").add_argument
    text = (
        "of elbo, iwae, exact, ais and bdmc (what the model has of the first three); the last two anneal, for"
        " minutes to hours"
    )
    add("--likelihood", metavar="LIST", help=text)
    add("--importance", metavar="K", type=count, default=64, help="codes an image of IWAE-K (64)")
    add("--draws", metavar="N", type=count, default=16, help="codes an image of the ELBO (16)")
    text = "whence these codes come: auto, encoder, or a normal fitted to it: diagonal or full"
    add("--proposal", metavar="NAME", default="auto", help=text)
    add("--chains", metavar="N", type=count, default=16, help="chains an image of ais and bdmc (16)")
    add("--temperatures", metavar="N", type=count, default=1000, help="temperatures of ais and bdmc (1000)")
    add("--simulated", metavar="N", type=count, default=64, help="images that the model makes for bdmc (64)")
    add("--schedule", metavar="NAME", default="sigmoid", help="of the temperatures: sigmoid or linear")
    text = "where annealing starts: prior, encoder, or a normal fitted to it: full (default) or diagonal"
    add("--start", metavar="NAME", default="full", help=text)

    add = made.add_argument_group("samples, posterior, critics").add_argument
    text = "of fid, kid, is, prdc and neighbours, or all (none)"
    add("--samples", metavar="LIST", default="", help=text)
    text = "whose features samples are judged by: classifier (of the data's labels), inception, or a weights file"
    add("--features", metavar="NAME", default="classifier", help=text)
    add(
        "--generated", metavar="N", type=count, help="samples judged (as many as test images, at most 10,000)"
    )
    text = "of posterior and critics, or none (what the model has of both)"
    add("--checks", metavar="LIST", help=text)
    add_model(made)
    add_output(made, "one object with lists of estimates and remarks")
    return made


def names(text: str, everything: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The names in a list with commas; "all" and "none" stand for what they say."""
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if found == ("none",):
        return ()
    return everything if found == ("all",) else found


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """What the options ask of the evaluation."""
    from advae.evaluation.likelihood.ais import Annealing
    from advae.evaluation.samples.sample_metrics import METRICS

    return {
        "likelihood": None if args.likelihood is None else names(args.likelihood),
        "samples": names(args.samples, METRICS),
        "checks": None if args.checks is None else names(args.checks),
        "split": args.split,
        "limit": args.limit,
        "seed": args.seed,
        "importance": args.importance,
        "draws": args.draws,
        "proposal": args.proposal,
        "annealing": Annealing(args.chains, args.temperatures, args.schedule, args.start),
        "simulated": args.simulated,
        "features": args.features,
        "generated": args.generated,
    }


@contextmanager
def processes() -> Iterator[int]:
    """Join the processes that torchrun started, if it did; gives the number of this one."""
    import torch.distributed as dist

    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not dist.is_available():
        yield 0
        return
    dist.init_process_group("gloo")  # results are gathered on the host, once an estimator
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()


def device_of(name: str) -> torch.device:
    """The device asked for; of several processes on one machine each has its own GPU."""
    from advae.training.environment import find_device

    local = os.environ.get("LOCAL_RANK")
    device = find_device(name)
    return find_device(f"cuda:{local}") if local and device.type == "cuda" and name == "auto" else device


def run(args: argparse.Namespace) -> int:
    """Evaluate, write, print."""
    allow_packages(args.allow)
    from advae.evaluation.evaluate import Asked
    from advae.evaluation.evaluate_run import evaluate_run
    from advae.run import Run

    wanted = asked(args)
    Asked.of(wanted)  # what is misspelt is said before anything is loaded
    opened = Run.open(args.run)
    model = opened.model(str(device_of(args.device)))
    data = run_data(opened, args)
    with processes() as rank:
        args.quiet = args.quiet or rank > 0
        try:
            found = evaluate_run(opened, model, data, stage=watched(args), **wanted).to_dict()
        except KeyboardInterrupt as stop:
            stop.args = ("interrupted; the same command goes on where it was",)
            raise
    if rank > 0:
        return 0
    if args.json:
        print_json(found)
        return 0
    print_estimates(found["estimates"], found["remarks"])
    say(
        args,
        f"written to {opened.path / 'eval' / 'estimates.json'}; the page: advae report {quote(str(opened.path))}",
    )
    return 0
