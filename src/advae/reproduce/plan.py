"""The plan of a table: its runs, their configurations and folders.

A run is in RUNS/RECIPE/STEPS-steps/sSEED, so that tables share common rows. A run with the same configuration elsewhere
in RUNS/RECIPE, put there by hand, is used as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from advae.config import Config, resolve
from advae.data import Dataset, load_data
from advae.data.data_options import DataOptions
from advae.devices import find_device, find_precision
from advae.errors import AdvaeError, ConfigError, DataError, nearest
from advae.reproduce.table_spec import PaperTable, Row
from advae.run import CONFIG_FILE, Run
from advae.training.train import is_finished

RUN_PATTERNS = (CONFIG_FILE, f"*/{CONFIG_FILE}", f"*/*/{CONFIG_FILE}")  # in RUNS/RECIPE
# Options that may differ between two configurations of the same run.
IGNORED_TOP = ("recipe", "description", "published", "device")
IGNORED_DATA = ("source", "workers")
IGNORED_TRAIN = (
    *("backend", "log_every", "samples_every", "checkpoint_every", "checkpoint_keep_every"),
    *("tensorboard", "loggers"),
)

Record = dict[str, Any]
Log = Callable[[str], None]


@dataclass(frozen=True)
class PlanOptions:
    """What is to be done for a table.

    Attributes:
        rows: names of recipes; all if empty.
        seeds: of every row; the table's if empty.
        max_steps: of training, for a quick look; None trains as the recipes say.
        sources: where data are, by the name in the recipes; "" stands for the only one.
        evaluation: replaces options of the table's evaluation: limit, chains, temperatures, feature_extractor.
        runs: folder of the runs.
        device: "auto", "cpu", "cuda" or "cuda:N"; None uses the recipes'.
    """

    rows: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    max_steps: int | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    runs: Path = Path("runs/reproduce")
    device: str | None = None


@dataclass(frozen=True)
class Job:
    """One run of a row.

    Attributes:
        row: the row.
        config: of training, with the seed.
        recipe_steps: training steps of the recipe.
        folder: for a new run.
        data: of the row.
    """

    row: Row
    config: Config
    recipe_steps: int
    folder: Path
    data: Dataset

    def __str__(self) -> str:
        return f"{self.row.name}, seed {self.config.seed}"

    def find_run(self) -> Run | None:
        """Return a run with the job's configuration, preferably a finished one."""
        folder = self.folder.parents[1]
        paths = sorted({path.parent for pattern in RUN_PATTERNS for path in folder.glob(pattern)})
        runs = [run for run in map(Run, paths) if self.is_same(run)]
        return next(filter(is_finished, runs), runs[0] if runs else None)

    def is_same(self, run: Run) -> bool:
        """Return whether a run has this configuration and these data."""
        own = config_fingerprint(self.config.to_dict())
        try:
            if run.env.get("data", {}).get("checksum") not in (None, self.data.checksum):
                return False
            config = run.config
            return config == self.config.to_dict() or config_fingerprint(resolve(config).to_dict()) == own
        except (
            AdvaeError,
            KeyError,
            AttributeError,
            TypeError,
            ValueError,
        ):  # written by another version, or damaged
            return False

    def run_folder(self) -> Path:
        """Return where the run is or will be: a folder without a run of another configuration."""
        run, folder, suffix = self.find_run(), self.folder, 1
        while run is None and (folder / CONFIG_FILE).is_file():
            suffix += 1
            folder = self.folder.with_name(f"{self.folder.name}-{suffix}")
        return folder if run is None else run.path


@dataclass(frozen=True)
class Plan:
    """A table with all runs that it takes.

    Attributes:
        table: with the selected rows.
        options: what was asked for.
        jobs: all rows with the first seed, then with the next.
    """

    table: PaperTable
    options: PlanOptions
    jobs: tuple[Job, ...]

    @property
    def evaluation(self) -> list[dict[str, Any]]:
        """The table's evaluation with the options that replace its own."""
        return [override(part, self.options.evaluation) for part in self.table.evaluation]


def make_plan(table: PaperTable, options: PlanOptions, log: Log) -> Plan:
    """Plan a table; its data are read, so that missing data are an error before any training.

    Raises:
        ConfigError: an unknown row or recipe, or options that do not fit the table.
        DataError: data are missing.
    """
    table = table.select(options.rows)
    for name, value in options.evaluation.items():
        if not any(concerns(name, part) for part in table.evaluation):
            given = f"{name} = {value}"
            raise ConfigError(f"Table {table.name} has no metric with option {name}.", given=given)
    configs = _resolve_recipes(table, options)
    data = _load_data(table, configs.values(), log)
    jobs = []
    for seed in options.seeds or table.seeds:
        for row in table.rows:
            recipe = configs[row.name]
            config = replace(shorten(recipe, options.max_steps or recipe.train.steps), seed=seed)
            folder = options.runs / row.name / f"{config.train.steps}-steps" / f"s{seed}"
            jobs.append(Job(row, config, recipe.train.steps, folder, data[config.data]))
    return Plan(table, options, tuple(jobs))


def shorten(config: Config, steps: int) -> Config:
    """Return a configuration for at most ``steps`` steps, without sample images and with warm-ups of at most half."""
    if steps >= config.train.steps:
        return config
    half = max(1, steps // 2)
    method = config.method | {"kl_warmup": min(config.method.get("kl_warmup", 0), half)}
    train = replace(config.train, steps=steps, lr_warmup=min(config.train.lr_warmup, half), samples_every=0)
    return replace(config, method=method, train=train)


def override(part: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a part of an evaluation with the options that concern it.

    >>> override({"likelihood": ["ais"], "limit": 256}, {"limit": 8, "chains": 2, "feature_extractor": "inception"})
    {'likelihood': ['ais'], 'limit': 8, 'chains': 2}
    """
    return {**part, **{name: value for name, value in options.items() if concerns(name, part)}}


def concerns(name: str, part: Mapping[str, Any]) -> bool:
    """Return whether a part of an evaluation has a metric with this option."""
    if name in ("chains", "temperatures"):
        return bool({"ais", "bdmc"} & {*part.get("likelihood", ())})
    return name == "limit" or bool(part.get("samples"))


def config_fingerprint(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration, as in config.yaml, without options that may differ between two of the same run."""
    config = {key: value for key, value in config.items() if key not in IGNORED_TOP}
    data = {key: value for key, value in config["data"].items() if key not in IGNORED_DATA}
    # None and auto are as if left out.
    config["data"] = {key: value for key, value in data.items() if value not in (None, "auto")}
    ignored = IGNORED_TRAIN if config["train"]["patience"] else (*IGNORED_TRAIN, "validate_every")
    config["train"] = {key: value for key, value in config["train"].items() if key not in ignored}
    if config["train"].get("precision") == "auto":
        config["train"]["precision"] = find_precision("auto", find_device("auto"))
    return config


def _resolve_recipes(table: PaperTable, options: PlanOptions) -> dict[str, Config]:
    """Return the configuration of each row by name, with the paths of its data."""
    overrides = {"device": options.device} if options.device else {}
    configs = {row.name: resolve(row.recipe, overrides) for row in table.rows}
    names = list(dict.fromkeys(config.data.source for config in configs.values()))
    for name in options.sources:
        if name and name not in names:
            raise ConfigError(f"Table {table.name} has no data set {name!r}.", fix=nearest(name, names))
    if "" in options.sources and len(names) > 1:
        raise ConfigError(
            f"These rows use several data sets: {', '.join(names)}.",
            given=f"--data.source {options.sources['']}",
            expected=" ".join(f"--data.source {name}=PATH" for name in names),
        )
    paths = {name: options.sources.get(name, options.sources.get("", name)) for name in names}
    return {
        key: replace(config, data=replace(config.data, source=paths[config.data.source]))
        for key, config in configs.items()
    }


def _load_data(table: PaperTable, configs: Iterable[Config], log: Log) -> dict[DataOptions, Dataset]:
    data: dict[DataOptions, Dataset] = {}
    for options in dict.fromkeys(config.data for config in configs):
        log(f"reading {options.source} …")
        try:
            data[options] = load_data(options)
        except DataError as error:
            raise DataError(
                f"Data of table {table.name} cannot be read: {error.what}",
                given=error.given or options.source,
                expected=error.expected,
                fix="give their path: --data.source PATH, or NAME=PATH for each data set (docs/reference/data.md)",
            ) from None
    return data
