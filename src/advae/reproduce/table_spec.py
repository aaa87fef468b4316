"""A paper's table: rows and columns, published values, and how ours are computed.

A table is YAML, in ``tables/`` by its name or in a file of yours:

title: what the table is about
source: where it was published
columns: by name: {title, ours, unit, negated, needs, baseline}     see Column
rows: a list of {label, recipe, published: {column: value, or {value, error, kind}}}
evaluation: a list of {likelihood, samples, diagnostics, limit, chains, …}, which are run one after another
references: recipes of rows that others with the same data are compared with example by example
notes: what a reader should know about the published values and ours
seeds: of every row
base: another table, of which this one replaces whole keys

Nothing here imports torch, so that listing the tables is fast.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from advae.errors import ConfigError, nearest
from advae.evaluation.eval_config import AISConfig, EvalConfig
from advae.safe_yaml import parse_yaml, read_yaml

TABLES = resources.files("advae") / "reproduce" / "tables"
NEEDS = ("", "encoder", "likelihood")
AIS_OPTIONS = tuple(f.name for f in fields(AISConfig))
EVALUATION_OPTIONS = (
    *(f.name for f in fields(EvalConfig) if f.name not in ("annealing", "strict")),
    *AIS_OPTIONS,
    *("split", "limit"),
)


@dataclass(frozen=True)
class Published:
    """A value of the paper.

    Attributes:
        value: as printed.
        error: what is printed after ±.
        kind: what it is, where that is not obvious: "adversarial estimate", "another implementation".
    """

    value: float
    error: float | None = None
    kind: str = ""


@dataclass(frozen=True)
class Selector:
    """Selects estimates for a column.

    Attributes:
        metric: of the estimate.
        variant: of the estimate. None: any, but no adversarial estimates, which are not comparable with others.
    """

    metric: str
    variant: str | None = None

    def matches(self, estimate: Mapping[str, Any], unit: str = "", is_baseline: bool = False) -> bool:
        """Return whether it selects an estimate."""
        if estimate["metric"] != self.metric or (unit and estimate["unit"] != unit):
            return False
        if is_baseline or estimate["kind"] == "baseline":
            return is_baseline and estimate["kind"] == "baseline"
        is_adversarial = estimate["kind"] == "adversarial estimate"
        return not is_adversarial if self.variant is None else estimate["variant"] == self.variant


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        name: key in rows.
        title: heading, with the unit.
        ours: which estimates, the first that a run has: a metric, or {metric, variant}.
        unit: of these estimates; any by default.
        negated: whether −log p(x) is printed.
        needs: what a model must have for it: "likelihood" or "encoder"; otherwise the cell says so.
        baseline: whether baselines of the metric are printed in a row of their own.
    """

    name: str
    title: str
    ours: tuple[Selector, ...]
    unit: str = ""
    negated: bool = False
    needs: str = ""
    baseline: bool = False

    def find(
        self, estimates: Iterable[Mapping[str, Any]], is_baseline: bool = False
    ) -> dict[str, Any] | None:
        """Return the first estimate for this column, or None."""
        estimates = list(estimates)
        for selector in self.ours:
            for estimate in estimates:
                if selector.matches(estimate, self.unit, is_baseline):
                    return dict(estimate)
        return None


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        label: as in the paper.
        recipe: the name of a recipe, or a recipe with its name under ``recipe``.
        published: values by column.
    """

    label: str
    recipe: str | dict[str, Any]
    published: dict[str, Published] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.recipe if isinstance(self.recipe, str) else str(self.recipe["recipe"])


@dataclass(frozen=True)
class PaperTable:
    """A paper's table; see the module's description of the YAML."""

    name: str
    title: str
    source: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    evaluation: tuple[dict[str, Any], ...] = ()
    references: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        columns, names = [column.name for column in self.columns], [row.name for row in self.rows]
        for row in self.rows:
            _check_keys(f"row {row.label!r} of table {self.name!r}, published", row.published, columns)
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"Table {self.name!r} needs rows with different recipes.", given=names)
        _check_keys(f"table {self.name!r}, references", self.references, names)

    def select(self, names: Iterable[str]) -> PaperTable:
        """Return the table with these rows only, or with all if there are no names.

        Raises:
            ConfigError: there is no such row.
        """
        selected, known = list(names), [row.name for row in self.rows]
        for name in selected:
            if name not in known:
                raise ConfigError(f"Table {self.name} has no row {name!r}.", fix=nearest(name, known))
        rows = tuple(row for row in self.rows if not selected or row.name in selected)
        references = tuple(name for name in self.references if not selected or name in selected)
        return replace(self, rows=rows, references=references)


def table_names() -> list[str]:
    """Return the names of the tables that ship, sorted."""
    return sorted(name for name in _shipped() if not name.startswith("_"))


def read_table(source: str | os.PathLike[str]) -> PaperTable:
    """Read a table by its name, or from a YAML file.

    Raises:
        ConfigError: there is no such table, or its definition is invalid.
    """
    tree, name = _read_definition(str(source)), Path(str(source)).stem
    where = f"table {name!r}"
    values = _check_fields(where, tree, PaperTable, without=("name",))
    for key in ("rows", "evaluation", "references", "notes", "seeds"):
        if key in values:
            values[key] = tuple(_as_list(where, key, values[key]))
    for part in values.get("evaluation", ()):
        _check_keys(f"{where}, evaluation", _as_mapping(where, part), EVALUATION_OPTIONS)
    values["rows"] = tuple(_row(where, row) for row in values["rows"])
    columns = _as_mapping(where, values["columns"]).items()
    values["columns"] = tuple(_column(f"{where}, column {key!r}", key, column) for key, column in columns)
    return PaperTable(name=name, **values)


def _shipped() -> list[str]:
    """Return the names of all tables; those with an underscore are bases of several."""
    return [file.name.removesuffix(".yaml") for file in TABLES.iterdir() if file.name.endswith(".yaml")]


def _read_definition(source: str, derived: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a definition, merged into its base; ``derived`` are the tables that it is a base of."""
    if source in derived:
        raise ConfigError("Tables are based on each other.", given=" → ".join([*derived, source]))
    if source.endswith((".yaml", ".yml")):
        value = read_yaml(source)
    elif source in _shipped():
        value = parse_yaml((TABLES / f"{source}.yaml").read_text("utf-8"), source)
    else:
        raise ConfigError(f"Unknown table {source!r}.", fix=nearest(source, table_names()))
    tree = _as_mapping(f"table {source!r}", value)
    return {**_read_definition(str(tree.pop("base")), (*derived, source)), **tree} if "base" in tree else tree


def _row(where: str, value: Any) -> Row:
    values = _check_fields(f"{where}, a row", value, Row)
    recipe = values["recipe"]
    if not isinstance(recipe, str) and not (isinstance(recipe, dict) and recipe.get("recipe")):
        raise ConfigError(f"{where}: recipe must be a name, or a recipe with its name.", given=recipe)
    published = _as_mapping(where, values.get("published", {})).items()
    values["published"] = {key: _published(f"{where}, published", item) for key, item in published}
    return Row(**values)


def _published(where: str, value: Any) -> Published:
    values = _check_fields(where, value if isinstance(value, Mapping) else {"value": value}, Published)
    for key in ("value", "error"):
        if not isinstance(values.get(key, 0.0), int | float):
            raise ConfigError(f"{where}: {key} must be a number.", given=repr(values[key]))
    return Published(**values)


def _column(where: str, name: str, value: Any) -> Column:
    values = _check_fields(where, value, Column, without=("name",))
    ours = _as_list(where, "ours", values["ours"])
    selectors = (item if isinstance(item, Mapping) else {"metric": item} for item in ours)
    values["ours"] = tuple(Selector(**_check_fields(f"{where}, ours", s, Selector)) for s in selectors)
    needs = str(values.get("needs", ""))
    if needs not in NEEDS:
        raise ConfigError(f"{where}: unknown needs {needs!r}.", fix=nearest(needs, NEEDS[1:]))
    return Column(name=name, **values)


def _check_fields(where: str, value: Any, cls: type, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a mapping; raise ConfigError unless it has the required fields of a dataclass and no unknown ones."""
    known, values = [f for f in fields(cls) if f.name not in without], _as_mapping(where, value)
    _check_keys(where, values, [f.name for f in known])
    required = [f.name for f in known if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} is missing.", given=value)
    return values


def _check_keys(where: str, keys: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for key in keys:
        if key not in known:
            raise ConfigError(f"{where}: unknown {key!r}.", fix=nearest(str(key), known))


def _as_mapping(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: a mapping is expected.", given=repr(value))
    return dict(value)


def _as_list(where: str, key: str, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where}: {key} must be a list.", given=repr(value))
    return list(value)
