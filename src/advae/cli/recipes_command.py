"""``advae recipes``: the built-in recipes by purpose."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from advae.cli.console import print_json
from advae.cli.parser import HELP_WIDTH, POSITIONAL, Name, OutputOptions, Parser
from advae.errors import ConfigError, nearest

SUMMARY = "list the built-in recipes by purpose"
EXAMPLES = """
advae recipes
advae recipes vae-images                       everything on one recipe
advae recipes --method avb --data mnist
advae recipes autoregressive flow --verbose    recipes with these words
advae train vae-digits --help                  every option of a recipe
"""
START, OWN_DATA, OTHERS = "Start here: handwritten digits, included", "Your own data", "Others"
JSON_KEYS = ("name", "method", "data", "published")


@dataclass(frozen=True, kw_only=True)
class RecipesOptions(OutputOptions):
    """List the built-in recipes by purpose: to start, for your own data, and for each table of a paper. --json prints
    a list of {name, method, data, published}."""

    words: Annotated[tuple[str, ...], "WORD", POSITIONAL] = ()
    """The name of a recipe, to print all about it; or words that name, description or published result contain."""
    method: Name | None = None
    """Recipes with this method."""
    data: Name | None = None
    """Recipes for this data: digits, images, table, mnist, …"""
    verbose: bool = False
    """Print also method, data, steps and the published result of each recipe."""


def parser() -> Parser[RecipesOptions]:
    return Parser("recipes", RecipesOptions, EXAMPLES, usage="[NAME | WORD …] [option …]")


def run(options: RecipesOptions) -> int:
    """Print the list."""
    known = list_recipes()
    rows = [row for row in known if _matches(row, options)]
    if not rows:
        raise _no_match(known, options)
    if options.json:
        print_json([{key: row[key] for key in JSON_KEYS} for row in rows])
        return 0
    exact = [row for row in rows if (row["name"],) == options.words]
    rows = exact or rows
    for i, group in enumerate(dict.fromkeys(row["group"] for row in rows)):
        print("\n" * bool(i) + textwrap.fill(group, HELP_WIDTH))
        _print_recipes([row for row in rows if row["group"] == group], options.verbose or bool(exact))
    name = exact[0]["name"] if exact else "NAME"
    print(f"\nadvae train {name} trains one; advae train {name} --help lists its options")
    return 0


def _print_recipes(rows: Sequence[Mapping[str, Any]], verbose: bool) -> None:
    """Print names and descriptions, and with ``verbose`` more facts, on lines of limited width."""
    width = max(len(row["name"]) for row in rows)
    indent = " " * (width + 4)
    for row in rows:
        lines = [row["description"]]
        if verbose:
            lines.append(f"method {row['method']}, data {row['data']}, {row['steps']:,} steps")
            lines += [f"published: {row['published']}"] * bool(row["published"])
        for i, line in enumerate(lines):
            first = f"  {row['name']:<{width}}  " if i == 0 else indent
            print(
                textwrap.fill(
                    line, HELP_WIDTH, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False
                )
            )


def _matches(row: Mapping[str, Any], options: RecipesOptions) -> bool:
    """Return whether a recipe passes all filters."""
    text = " ".join(map(str, row.values())).lower()
    return (
        options.method in (None, row["method"])
        and options.data in (None, row["data"], *row["name"].split("-"))
        and all(word.lower() in text for word in options.words)
    )


def _no_match(rows: Sequence[Mapping[str, Any]], options: RecipesOptions) -> ConfigError:
    """Return the error if no recipe passes the filters, with the nearest name."""
    known = {key: list(dict.fromkeys(row[key] for row in rows)) for key in ("method", "data", "name")}
    given = {"method": options.method, "data": options.data, "name": " ".join(options.words)}
    wrong = next((key for key, value in given.items() if value and value not in known[key]), "name")
    shown = ", ".join(f"{key} {value}" for key, value in given.items() if value)
    fix = nearest(str(given[wrong]), known[wrong], "advae recipes")
    return ConfigError("No recipe matches.", given=shown, fix=fix)


def list_recipes() -> list[dict[str, Any]]:
    """Return name, group, method, data, steps, published result and description of every recipe, by group."""
    from advae.config import COMPONENT_DEFAULTS as DEFAULTS
    from advae.config import IMAGE_RECIPES, TABLE_RECIPES, TOP_LEVEL_DEFAULTS, merge, read_recipe, recipes
    from advae.data.data_options import DataOptions
    from advae.reproduce.table_spec import read_table, table_names
    from advae.training.train_options import TrainOptions

    tables = {name: read_table(name) for name in table_names()}
    titles = {
        recipe: f"{table.title} (advae reproduce {name})"
        for name, table in reversed(tables.items())
        for recipe in (*table.references, *(row.name for row in table.rows))
    }
    rows = []
    for name in recipes():
        tree = merge(TOP_LEVEL_DEFAULTS | DEFAULTS, read_recipe(name))
        method, data = tree["method"]["name"], str(tree.get("data", {}).get("source", DataOptions.source))
        group = titles.get(name, OTHERS)
        if name.endswith((f"-{IMAGE_RECIPES}", f"-{TABLE_RECIPES}")):
            group, data = OWN_DATA, name.rpartition("-")[2]
        elif data == DataOptions.source:
            group = START
        steps = int(tree.get("train", {}).get("steps", TrainOptions.steps))
        row = {"name": name, "group": group, "method": method, "data": data, "steps": steps}
        rows.append(row | {key: str(tree[key]) for key in ("published", "description")})
    groups = [START, OWN_DATA, *dict.fromkeys(titles[name] for name in reversed(titles)), OTHERS]
    num_recipes = Counter(row["method"] for row in rows)  # to begin with the methods that most recipes are of

    def order(row: Mapping[str, Any]) -> tuple[int, bool, int]:
        is_variant = row["name"] != f"{row['method']}-{row['data']}"
        return groups.index(row["group"]), is_variant, -num_recipes[row["method"]]

    return sorted(rows, key=order)
