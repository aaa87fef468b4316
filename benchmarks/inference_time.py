"""Time of variational families and of Hamiltonian chains with the accuracy of the implicit family.

    python benchmarks/inference_time.py [--targets a,b]

In one run and on one core: one fit of each family, and chains of increasing length until their samples are as close to
the long chains of results/inference.json (from ``inference.py``) as those of the implicit family. The distance is the
sliced Wasserstein distance of 4,000 samples, in standard deviations. Results are written to results/inference-time.json
and results/inference-time.md.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch
from inference_page import markdown
from inference_targets import TARGETS
from timing import describe_machine, machine_record

import advae
from advae.inference.hmc_reference import HMCConfig, sample_hmc
from advae.inference.parameters import ParameterSpace
from advae.inference.target import Target
from advae.io import write_json
from inference import NUM_SAMPLES, RESULTS, compare, reference_samples

PATH = RESULTS.with_name("inference-time.json")
FAMILIES = ("full-rank", "flow", "implicit")
NUM_CHAINS = 64
CHAIN_CONFIGS = [
    HMCConfig(
        NUM_CHAINS, warmup=int(25 * 2**i), samples=round(NUM_SAMPLES / NUM_CHAINS), thin=max(1, 2**i // 4)
    )
    for i in range(7)
]


def time_fit(name: str, family: str, reference: torch.Tensor) -> dict[str, float]:
    """Return CPU seconds and distance of one fit."""
    example, start = TARGETS[name](), time.process_time()
    posterior = advae.infer(example.log_joint, example.parameters, family=family, fits=1, seed=0, quiet=True)
    z = posterior.sample_unconstrained(NUM_SAMPLES)[0]
    seconds = time.process_time() - start
    distances = compare(z, reference, example, ParameterSpace(example.parameters))
    return {"seconds": seconds, "sliced": distances["sliced"]}


def time_chains(name: str, reference: torch.Tensor, max_distance: float) -> dict[str, float]:
    """Return CPU seconds and distance of the shortest chains within ``max_distance``, or else of the longest."""
    example = TARGETS[name]()
    space = ParameterSpace(example.parameters)
    for config in CHAIN_CONFIGS:
        start = time.process_time()
        z = sample_hmc(Target(example.log_joint, space), config, 2).z.flatten(0, 1)
        result = {
            "seconds": time.process_time() - start,
            "warmup": config.warmup,
            "transitions": config.samples * config.thin,
        }
        result["sliced"] = compare(z, reference, example, space)["sliced"]
        if result["sliced"] <= max_distance:
            break
    return result


def make_page(record: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    rows = []
    for name, result in record["targets"].items():
        cells = [f"{result[f]['seconds']:.1f} s, {result[f]['sliced']:.3f}" for f in FAMILIES]
        chains = result["chains"]
        length = f"{chains['warmup']} + {chains['transitions']}"
        if chains["sliced"] > result["implicit"]["sliced"]:
            length += ": less accurate"
        cells += [f"{chains['seconds']:.1f} s, {chains['sliced']:.3f}", length]
        rows.append([name, *cells])
    head = ["target", *FAMILIES, f"{NUM_CHAINS} chains of HMC", "warm-up + transitions"]
    text = (__doc__ or "").split("\n\n", 2)[2].strip()
    machine, table = describe_machine(record), markdown(head, rows)
    return f"# Time of inference\n\n{text}\n\n{machine} CPU seconds, distance:\n\n{table}\n"


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--targets", default="rosenbrock,torus,unknown-scale,schools-paper,schools,logistic")
    args = parser.parse_args()
    torch.set_num_threads(1)
    diagnostics = json.loads(RESULTS.read_text())["reference"]
    record: dict[str, Any] = {"targets": {}} | machine_record(torch.device("cpu"))
    for name in args.targets.split(","):
        reference = reference_samples(name, TARGETS[name](), diagnostics)
        result: dict[str, Any] = {family: time_fit(name, family, reference) for family in FAMILIES}
        result["chains"] = time_chains(name, reference, result["implicit"]["sliced"])
        record["targets"][name] = result
        print(name, result, flush=True)
        write_json(PATH, record)
        PATH.with_suffix(".md").write_text(make_page(record))


if __name__ == "__main__":
    main()
