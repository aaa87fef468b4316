"""What a plan is made of: what was asked for, the runs that it takes and where they lie, how they are judged.

A run lies in RUNS/RECIPE/STEPS-steps/sSEED, so that tables share the rows that they have in common. A run of the same
configuration that lies elsewhere in RUNS/RECIPE, put there by hand, is the row's as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advae.config import Config, resolve
from advae.data import Dataset
from advae.errors import AdvaeError
from advae.evaluation.resumable import Ticks
from advae.reproduce.probe import Speed
from advae.reproduce.table_spec import Row, Table
from advae.run import CONFIG, Run
from advae.training.environment import find_device, find_precision
from advae.training.train import finished

PLACES = (CONFIG, f"*/{CONFIG}", f"*/*/{CONFIG}")  # of runs in RUNS/RECIPE
FOLDER = "reproduced"  # in a run: what it was found worth when it was judged for a table
# What may differ between two configurations of the same run: names, where things are, how often it is looked at.
NAMES = ("recipe", "description", "published", "device")
DATA = ("source", "workers")
TRAIN = ("backend", "log_every", "samples_every", "checkpoint_every", "checkpoint_keep_every", "tensorboard")
ANNEALED = ("ais", "bdmc")

Record = dict[str, Any]
Say = Callable[[str], None]
Stage = Callable[[str, int], AbstractContextManager[Ticks]]


@dataclass(frozen=True)
class Wanted:
    """What is asked for besides the table.

    Attributes:
        rows: by their recipes' names; all if none are given.
        seeds: of every row; the table's own if none are given.
        budget: seconds that training may take in all, about; None trains as the recipes say.
        sources: where data are, by the name that the recipes have for them; "" stands for the only one.
        judge: what replaces the table's evaluation: limit, chains, temperatures, features.
        runs: the folder of runs.
        device: "auto", "cpu", "cuda" or "cuda:N"; None leaves it to the recipes.
    """

    rows: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    budget: float | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    judge: Mapping[str, Any] = field(default_factory=dict)
    runs: Path = Path("runs/reproduce")
    device: str | None = None


@dataclass(frozen=True)
class Job:
    """One run of a row.

    Attributes:
        row: the row.
        config: how it is trained, seed included.
        recipe_steps: as many as the recipe says.
        folder: where it goes if there is none yet.
        data: of the row.
    """

    row: Row
    config: Config
    recipe_steps: int
    folder: Path
    data: Dataset

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.row.name}, seed {self.config.seed}"

    def run(self) -> Run | None:
        """The row's run, if there is one: a finished one before others."""
        folder = self.folder.parents[1]
        places = sorted({path.parent for pattern in PLACES for path in folder.glob(pattern)})
        found = [run for run in map(Run, places) if self.is_of(run)]
        return next(filter(finished, found), found[0] if found else None)

    def is_of(self, run: Run) -> bool:
        """Whether a run is of this configuration and on the same data."""
        own = identity(self.config.to_dict())
        try:
            if run.env.get("data", {}).get("checksum") not in (None, self.data.checksum):
                return False
            config = run.config
            return config == self.config.to_dict() or identity(resolve(config).to_dict()) == own
        except (AdvaeError, KeyError, AttributeError):  # made by another version, or damaged
            return False

    def place(self) -> Path:
        """Where the run is or will be: never where one of another configuration lies."""
        run, folder, taken = self.run(), self.folder, 1
        while run is None and (folder / CONFIG).is_file():
            taken += 1
            folder = self.folder.with_name(f"{self.folder.name}-{taken}")
        return folder if run is None else run.path


@dataclass(frozen=True)
class Study:
    """How the runs of a table are judged and shown.

    Attributes:
        question: what the answer to a run depends on besides its weights, JSON.
        judge: of a finished run, what is found of it, JSON.
        publish: writes the results of all runs so far into a folder, and gives the paths.
        sources: data that the study makes itself, in a folder: where they are, by name.
    """

    question: Callable[[Plan, Job], Mapping[str, Any]]
    judge: Callable[[Plan, Job, Run, Stage], Record]
    publish: Callable[[Plan, Sequence[Record], Path], list[Path]]
    sources: Callable[[Path], Mapping[str, str]] = lambda folder: {}


@dataclass(frozen=True)
class Plan:
    """A table and all that it takes.

    Attributes:
        table: with the rows asked for.
        wanted: what was asked for.
        jobs: of all rows with the first seed, then with the next.
        study: how they are judged and shown.
        speeds: of rows by name, where they were measured.
    """

    table: Table
    wanted: Wanted
    jobs: tuple[Job, ...]
    study: Study
    speeds: Mapping[str, Speed] = field(default_factory=dict)

    @property
    def parts(self) -> list[dict[str, Any]]:
        """What every row is asked: the table's evaluation, with what replaces it."""
        return [replaced(part, self.wanted.judge) for part in self.table.evaluation]


def replaced(part: Mapping[str, Any], judge: Mapping[str, Any]) -> dict[str, Any]:
    """A part of an evaluation with the replacements that concern it.

    >>> replaced({"likelihood": ["ais"], "limit": 256}, {"limit": 8, "chains": 2, "features": "inception"})
    {'likelihood': ['ais'], 'limit': 8, 'chains': 2}
    """
    return {**part, **{name: value for name, value in judge.items() if concerns(name, part)}}


def concerns(name: str, part: Mapping[str, Any]) -> bool:
    """Whether a replacement is a setting of something that a part asks."""
    if name in ("chains", "temperatures"):
        return bool({*ANNEALED} & {*part.get("likelihood", ())})
    return name == "limit" or bool(part.get("samples"))


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, as config.yaml has it, without what may differ between two of the same run."""
    plain = {key: value for key, value in config.items() if key not in NAMES}
    plain["data"] = {key: value for key, value in plain["data"].items() if key not in DATA}
    unseen = TRAIN if plain["train"]["patience"] else (*TRAIN, "validate_every")
    plain["train"] = {key: value for key, value in plain["train"].items() if key not in unseen}
    if plain["train"].get("precision") == "auto":  # the same as saying what it comes to here
        plain["train"]["precision"] = find_precision("auto", find_device("auto"))
    return plain
