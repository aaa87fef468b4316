"""What the studies of several methods and seeds share: runs that are trained once, measured once, and found again."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import advae
from advae.errors import AdvaeError
from advae.files import read_json, write_json
from advae.training.config import merge

RESULTS = Path(__file__).parents[1] / "results"


@dataclass(frozen=True)
class Study:
    """Methods trained on the same data with several seeds.

    Attributes:
        name: of its folder and its results.
        base: the option tree that all share.
        choices: of each method its name for people and its own options.
        seeds: of each method.
        made: a folder to the file of the data in it, written if it is not there.
        measure: a run to what is measured of it.
    """

    name: str
    base: Mapping[str, Any]
    choices: Mapping[str, tuple[str, Mapping[str, Any]]]
    seeds: Sequence[int]
    made: Callable[[Path], Path]
    measure: Callable[[Any], dict[str, Any]]

    def trained(self, choice: str, seed: int, folder: Path, steps: int | None) -> Any:
        """The run of a method and a seed: found if finished, gone on with if it was stopped, else trained."""
        out = folder / choice / f"s{seed}"
        if not (out / "config.yaml").exists():
            source = {"data": {"source": str(self.made(folder))}}
            tree = merge(merge(dict(self.base), source), dict(self.choices[choice][1]))
            options = {"seed": seed} | ({"train.steps": steps} if steps else {})
            return advae.train(tree, options=options, out=out, quiet=True)
        run = advae.Run.open(out)
        if run.model().info["step"] < run.config["train"]["steps"]:
            run = advae.resume(out, quiet=True)
        return run

    def one(self, choice: str, seed: int, folder: Path, steps: int | None, again: bool) -> dict[str, Any]:
        """Train (or find) one run and measure it; ``measured.json`` in its folder keeps the result."""
        kept = folder / choice / f"s{seed}" / "measured.json"
        if kept.exists() and not again:
            return read_json(kept)
        result: dict[str, Any] = {"method": choice, "seed": seed}
        try:
            run = self.trained(choice, seed, folder, steps)
            result |= described(run) | self.measure(run)
        except AdvaeError as error:  # a run that failed is a result as well
            result |= {"error": str(error)}
        write_json(kept, result)
        return result

    def found_in(self, folder: Path) -> list[dict[str, Any]]:
        """What is measured of all runs so far, in the order of ``choices``."""
        kept = [folder / c / f"s{seed}" / "measured.json" for c in self.choices for seed in self.seeds]
        return [read_json(path) for path in kept if path.exists()]

    def by_name(self, runs: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
        """Runs by their method's name for people; a method without runs is left out."""
        by = {name: [r for r in runs if r["method"] == choice] for choice, (name, _) in self.choices.items()}
        return {name: mine for name, mine in by.items() if mine}

    def main(
        self, about: str, seen: Callable[[dict[str, Any]], object], publish: Callable[[Path], None]
    ) -> None:
        """The command: train and measure what its options say, then publish all that there is.

        Args:
            about: the help.
            seen: what to print of a run that was measured.
            publish: writes the results from the folder of runs.
        """
        parser = argparse.ArgumentParser(
            description=about, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument("--out", type=Path, default=Path("runs") / self.name)
        parser.add_argument("--methods", nargs="*", choices=list(self.choices), default=list(self.choices))
        parser.add_argument("--seeds", nargs="*", type=int, choices=self.seeds, default=list(self.seeds))
        parser.add_argument("--steps", type=int, help=f"instead of {self.base['train']['steps']}")
        parser.add_argument("--again", action="store_true", help="measure finished runs again")
        args = parser.parse_args()
        torch.set_num_threads(1)
        for seed in args.seeds:
            for choice in args.methods:
                r = self.one(choice, seed, args.out, args.steps, args.again)
                print(choice, seed, r.get("error") or seen(r), flush=True)
        RESULTS.mkdir(exist_ok=True)
        publish(args.out)


def described(run: Any) -> dict[str, Any]:
    """How a run was trained and on what."""
    config, env = run.config, run.env
    last = [row for row in run.metrics() if row["split"] == "train"][-1]
    config["data"].pop("source")  # where it lies; the checksum says what it is
    return {
        "steps": last["step"],
        "seconds": last["time"],
        "config": {key: config[key] for key in ("data", "model", "method", "train")},
        "device": env["device"],
        "versions": env["versions"],
        "checksum": env["data"]["checksum"],
    }
