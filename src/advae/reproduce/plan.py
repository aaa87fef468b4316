"""From a table to its plan: recipes resolved, data found and read, steps decided."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from advae.config import Config, resolve
from advae.data import Dataset, load_data
from advae.data.data_options import DataOptions
from advae.errors import AdvaeError, ConfigError, DataError, nearest
from advae.reproduce.budget import kept_steps, steps_file, within, write_steps
from advae.reproduce.jobs import Job, Plan, Say, Study, Wanted, concerns
from advae.reproduce.probe import Speed, measured
from advae.reproduce.table_spec import Row, Table


def planned(table: Table, wanted: Wanted, study: Study, say: Say, *, keep: bool = True) -> Plan:
    """What a table takes. Data are found and read, so that it is known before any training that they are there.

    Args:
        table: the table.
        wanted: which rows, and what else is asked for.
        study: how its runs are judged; it may make data of its own.
        say: told what takes a while.
        keep: write down the steps that a budget comes to, so that the same command finds the same steps again.

    Raises:
        ConfigError: an unknown row or recipe, or options that do not fit the table.
        DataError: data that are not there.
    """
    table = table.only(wanted.rows)
    _check_judge(table, wanted)
    wanted = replace(wanted, sources={**study.sources(wanted.runs), **wanted.sources})
    configs = _configs(table, wanted)
    data = _read(table, configs.values(), say)
    steps, speeds = _steps(table, wanted, configs, data, say, keep)
    jobs = [
        _job(row, configs[row.name], seed, steps[row.name], wanted.runs, data)
        for seed in wanted.seeds or table.seeds
        for row in table.rows
    ]
    return Plan(table, wanted, tuple(jobs), study, speeds)


def _steps(
    table: Table,
    wanted: Wanted,
    configs: Mapping[str, Config],
    data: Mapping[DataOptions, Dataset],
    say: Say,
    keep: bool,
) -> tuple[dict[str, int], dict[str, Speed]]:
    """Of each row: by its recipe or, with a budget, as decided before or now; then with what was timed for it."""
    recipes, seeds = {name: c.train.steps for name, c in configs.items()}, wanted.seeds or table.seeds
    if wanted.budget is None:
        return recipes, {}
    file = steps_file(wanted.runs, table.name, wanted.budget, seeds, recipes)
    if (kept := kept_steps(file)) is not None:
        return kept, {}
    speeds = timed(configs, data, say)
    steps = within(wanted.budget, speeds, {name: c.train for name, c in configs.items()}, len(seeds))
    if keep:
        write_steps(file, steps)
    return steps, speeds


def _job(
    row: Row, config: Config, seed: int, steps: int, runs: Path, data: Mapping[DataOptions, Dataset]
) -> Job:
    # Sheets of samples along the way can take longer than a short training itself: only where it is whole.
    shown = config.train.samples_every if steps == config.train.steps else 0
    own = shortened(replace(config, seed=seed, train=replace(config.train, samples_every=shown)), steps)
    folder = runs / row.name / f"{steps}-steps" / f"s{seed}"
    return Job(row, own, config.train.steps, folder, data[config.data])


def shortened(config: Config, steps: int) -> Config:
    """A configuration for ``steps`` steps, of which what grows from zero grows in the first half at most."""
    if steps >= config.train.steps:
        return config
    half = max(1, steps // 2)
    method = config.method | {"kl_warmup": min(config.method.get("kl_warmup", 0), half)}
    train = replace(config.train, steps=steps, lr_warmup=min(config.train.lr_warmup, half))
    return replace(config, method=method, train=train)


def _configs(table: Table, wanted: Wanted) -> dict[str, Config]:
    """How each row is trained, by its name: the recipe, with the data where they are."""
    own = {"device": wanted.device} if wanted.device else {}
    configs = {row.name: resolve(row.recipe, own) for row in table.rows}
    names = list(dict.fromkeys(config.data.source for config in configs.values()))
    for name in wanted.sources:
        if name and name not in names:
            raise ConfigError(f"table {table.name} has no data set {name!r}", remedy=nearest(name, names))
    if "" in wanted.sources and len(names) > 1:
        raise ConfigError(
            f"these rows are of several data sets: {', '.join(names)}",
            given=f"--data.source {wanted.sources['']}",
            expected=" ".join(f"--data.source {name}=PATH" for name in names),
        )
    where = {name: wanted.sources.get(name, wanted.sources.get("", name)) for name in names}
    return {
        key: replace(config, data=replace(config.data, source=where[config.data.source]))
        for key, config in configs.items()
    }


def _read(table: Table, configs: Iterable[Config], say: Say) -> dict[DataOptions, Dataset]:
    found: dict[DataOptions, Dataset] = {}
    for config in configs:
        if config.data in found:
            continue
        say(f"reading {config.data.source} …")
        try:
            found[config.data] = load_data(config.data)
        except DataError as error:
            raise DataError(
                f"table {table.name} needs data that cannot be read: {error.what}",
                given=error.given or config.data.source,
                expected=error.expected,
                remedy="say where they are: --data.source PATH (several: --data.source NAME=PATH); see docs/data.md",
            ) from None
    return found


def timed(configs: Mapping[str, Config], data: Mapping[DataOptions, Dataset], say: Say) -> dict[str, Speed]:
    """How fast each row is that can be set up; of one that cannot, its training will say why."""
    speeds = {}
    for name, config in configs.items():
        say(f"timing a few steps of {name} …")
        try:
            speeds[name] = measured(config, data[config.data])
        except AdvaeError as error:
            say(f"{name}: {error.what}")
    return speeds


def _check_judge(table: Table, wanted: Wanted) -> None:
    for name, value in wanted.judge.items():
        if not any(concerns(name, part) for part in table.evaluation):
            raise ConfigError(
                f"table {table.name} asks nothing that {name} is a setting of", given=f"{name} = {value}"
            )
