"""``advae recipes``: the built-in recipes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from advae.cli.console import print_json, print_table
from advae.cli.parser import OutputOptions, Parser
from advae.formatting import Table

SUMMARY = "list the built-in recipes"
EXAMPLES = """
advae recipes
advae recipes --json
advae train vae-digits --help        every option of a recipe
"""


@dataclass(frozen=True, kw_only=True)
class RecipesOptions(OutputOptions):
    """List the built-in recipes, with the published result to compare with. --json prints a list of {name, method,
    data, published}."""


def parser() -> Parser[RecipesOptions]:
    return Parser("recipes", RecipesOptions, EXAMPLES, usage="[--json]")


def run(options: RecipesOptions) -> int:
    """Print the list."""
    rows = list_recipes()
    if options.json:
        print_json([{key: row[key] for key in ("name", "method", "data", "published")} for row in rows])
        return 0
    columns = ("recipe", "method", "data", "published", "description")
    cells = [(r["name"], r["method"], r["data"], r["published"] or "–", r["description"]) for r in rows]
    print_table(Table.from_texts(columns, cells))
    return 0


def list_recipes() -> list[dict[str, Any]]:
    """Return name, method, data, published result and description of every recipe."""
    from advae.config import COMPONENT_DEFAULTS, merge, read_recipe, recipes

    trees = {name: merge(COMPONENT_DEFAULTS, read_recipe(name)) for name in recipes()}
    return [
        {
            "name": name,
            "method": tree["method"]["name"],
            "data": str(tree.get("data", {}).get("source", "digits")),
            "published": str(tree.get("published") or ""),
            "description": str(tree.get("description") or ""),
        }
        for name, tree in trees.items()
    ]
