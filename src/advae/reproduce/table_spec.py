"""A table of a paper as data: its rows and columns, what was published, and how ours are judged.

A definition is YAML, in ``tables/`` under the table's name or a file of one's own:

title: what it is of
source: where it was published
columns: by name: {title, ours, unit, negated, needs, yardstick}     see Column
rows: a list of {label, recipe, published: {column: value, or {value, error, kind}}}
evaluation: a list of {likelihood, samples, checks, limit, chains, …}, carried out one after another
references: recipes of rows that the others, on the same data, are held against image by image
notes: what a reader should know of the published figures, and of ours beside them
base: another definition, of which this one replaces whole keys

Nothing here imports torch, so that the list of tables is quick.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from advae.errors import ConfigError, nearest

NEEDS = ("", "encoder", "likelihood")
ANNEALING = ("chains", "temperatures", "schedule", "start", "leapfrogs")
PROTOCOL = (
    *("likelihood", "samples", "checks", "split", "limit", "importance", "draws", "proposal"),
    *("simulated", "features", "generated", *ANNEALING),
)
"""What a part of an evaluation may say: the arguments of :func:`advae.evaluation.evaluate`, annealing's spelt out."""


@dataclass(frozen=True)
class Published:
    """A figure of the paper.

    Attributes:
        value: as printed.
        error: what stands after its ±, if anything does.
        kind: what it is, where that is not plain: "adversarial estimate", "another implementation".
    """

    value: float
    error: float | None = None
    kind: str = ""


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        name: that rows know it by.
        title: its heading, with the unit.
        ours: names of estimates, of which the first that a run has stands here. In a name, * is any text
            without parentheses: ``iwae-*`` is ``iwae-64[full-normal]`` but not ``iwae-64 (bits/dim)``.
        negated: −log p(x) is printed, and ours are log p(x).
        needs: what a model must have for it: "likelihood" or "encoder"; without, the cell says so.
        yardstick: names of estimates of something other than the model, likewise, which make a row of their own.
    """

    name: str
    title: str
    ours: tuple[str, ...]
    negated: bool = False
    needs: str = ""
    yardstick: tuple[str, ...] = ()

    def found(self, names: Iterable[str], among: tuple[str, ...] | None = None) -> str | None:
        """The estimate's name that stands in this column, or None.

        >>> Column("elbo", "ELBO", ("elbo", "elbo (critic)")).found(["elbo[full-normal]", "elbo (critic)"])
        'elbo (critic)'
        """
        names = list(names)
        for wanted in self.ours if among is None else among:
            pattern = re.compile(re.escape(wanted).replace(r"\*", "[^()]*"))
            if name := next((name for name in names if pattern.fullmatch(name)), None):
                return name
        return None

    def estimate(self, run: Mapping[str, Any], among: tuple[str, ...] | None = None) -> dict[str, Any] | None:
        """The estimate of a run's record that stands in this column, or None."""
        by_name = {estimate["name"]: estimate for estimate in run.get("estimates", ())}
        name = self.found(by_name, among)
        return by_name[name] if name else None


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        label: as the paper calls it.
        recipe: a recipe's name, or a recipe itself, with its name under ``recipe``.
        published: by the name of the column.
    """

    label: str
    recipe: str | dict[str, Any]
    published: dict[str, Published] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The recipe's."""
        return self.recipe if isinstance(self.recipe, str) else str(self.recipe["recipe"])


@dataclass(frozen=True)
class Table:
    """A table of a paper.

    Attributes:
        name: of its definition and its results.
        title: what it is of.
        source: where it was published.
        rows: in the paper's order.
        columns: likewise.
        evaluation: what every row is asked, part by part.
        references: recipes of rows that the others, on the same data, are held against image by image.
        notes: sentences for the page.
        seeds: that are trained unless others are asked for.
        study: the name of another way to judge and show the rows; see ``work.STUDIES``.
    """

    name: str
    title: str
    source: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...] = ()
    evaluation: tuple[dict[str, Any], ...] = ()
    references: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    study: str = ""

    def __post_init__(self) -> None:
        columns = [column.name for column in self.columns]
        for row in self.rows:
            _known(f"row {row.label!r} of table {self.name!r}, published", row.published, columns)
        names = [row.name for row in self.rows]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"table {self.name!r} needs rows, each of a recipe of its own", given=names)

    def only(self, names: Iterable[str]) -> Table:
        """The table with the rows of these recipes; with none, as it is.

        Raises:
            ConfigError: there is no such row.
        """
        chosen, known = list(names), [row.name for row in self.rows]
        for name in chosen:
            if name not in known:
                raise ConfigError(f"table {self.name} has no row {name!r}", remedy=nearest(name, known))
        rows = tuple(row for row in self.rows if not chosen or row.name in chosen)
        return Table(**{f.name: getattr(self, f.name) for f in fields(self)} | {"rows": rows})


def tables() -> list[str]:
    """Names of the tables that ship, sorted."""
    return sorted(name for name in _files() if not name.startswith("_"))


def read_table(source: str | os.PathLike[str]) -> Table:
    """A table by its name, or from a YAML file.

    Raises:
        ConfigError: there is no such table, or its definition is wrong.
    """
    tree, name = _tree(str(source)), Path(str(source)).stem
    where = f"table {name!r}"
    plain = _checked(where, tree, Table, without=("name",))
    plain["rows"] = tuple(_row(where, row) for row in _list(where, "rows", tree["rows"]))
    columns = _mapping(where, tree.get("columns", {})).items()
    plain["columns"] = tuple(_column(f"{where}, column {key!r}", key, value) for key, value in columns)
    for part in _list(where, "evaluation", tree.get("evaluation", [])):
        _known(f"{where}, evaluation", _mapping(where, part), PROTOCOL)
    for key in ("evaluation", "references", "notes", "seeds"):
        plain[key] = tuple(_list(where, key, tree[key])) if key in tree else getattr(Table, key)
    table = Table(**plain, name=name)
    _known(f"{where}, references", table.references, [row.name for row in table.rows])
    return table


def _files() -> list[str]:
    """Tables and, with a leading underscore, what several of them share."""
    folder = resources.files("advae") / "reproduce" / "tables"
    return [file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml")]


def _tree(source: str) -> dict[str, Any]:
    """A definition as plain values, with what it takes over from another."""
    if source.endswith((".yaml", ".yml")):
        try:
            text = Path(source).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("the table cannot be read", given=error) from None
    elif source in _files():
        text = (resources.files("advae") / "reproduce" / "tables" / f"{source}.yaml").read_text()
    else:
        raise ConfigError(f"there is no table {source!r}", remedy=nearest(source, tables()))
    try:
        tree = _mapping(f"table {source!r}", yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ConfigError("the table is not valid YAML", given=f"{source}: {error}") from None
    return {**_tree(str(tree.pop("base"))), **tree} if "base" in tree else dict(tree)


def _row(where: str, given: Any) -> Row:
    plain = _checked(f"{where}, a row", given, Row)
    recipe = plain["recipe"]
    if not isinstance(recipe, str) and not (isinstance(recipe, dict) and recipe.get("recipe")):
        raise ConfigError(f"{where}: a row's recipe is a name, or a recipe with its name", given=recipe)
    published = _mapping(where, plain.get("published", {}))
    plain["published"] = {key: _published(f"{where}, published", value) for key, value in published.items()}
    return Row(**plain)


def _published(where: str, given: Any) -> Published:
    plain = _checked(where, given if isinstance(given, Mapping) else {"value": given}, Published)
    for key in ("value", "error"):
        if not isinstance(plain.get(key, 0.0), int | float):
            raise ConfigError(f"{where}: {key} is a number", given=repr(plain[key]))
    return Published(**plain)


def _column(where: str, name: str, given: Any) -> Column:
    plain = _checked(where, given, Column, without=("name",))
    for key in ("ours", "yardstick"):
        plain[key] = tuple(map(str, _list(where, key, plain.get(key, []))))
    if plain.get("needs", "") not in NEEDS:
        raise ConfigError(f"{where} needs {plain['needs']!r}", remedy=nearest(str(plain["needs"]), NEEDS[1:]))
    return Column(name=name, **plain)


def _checked(where: str, given: Any, cls: type, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The mapping, if it has the fields of a dataclass and no others."""
    wanted = [f for f in fields(cls) if f.name not in without]
    plain = dict(_mapping(where, given))
    _known(where, plain, [f.name for f in wanted])
    missing = [
        f.name
        for f in wanted
        if f.default is MISSING and f.default_factory is MISSING and f.name not in plain
    ]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} is missing", given=given)
    return plain


def _known(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for key in given:
        if key not in known:
            raise ConfigError(f"{where}: there is no {key!r}", remedy=nearest(str(key), known))


def _mapping(where: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}: names with values are expected here", given=repr(given))
    return dict(given)


def _list(where: str, key: str, given: Any) -> list[Any]:
    if not isinstance(given, list):
        raise ConfigError(f"{where}: {key} is a list", given=repr(given))
    return given
