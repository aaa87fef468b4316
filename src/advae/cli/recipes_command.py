"""``advae recipes``: what ships, a line each, with the published figure it stands beside."""

from __future__ import annotations

import argparse
from typing import Any

from advae.cli.console import print_json, print_table
from advae.cli.parser import Parser, add_output

EXAMPLES = """\
  advae recipes
  advae recipes --json
  advae train vae-digits --help        every option of a recipe"""


def parser() -> Parser:
    """Its arguments."""
    made = Parser("recipes", "List the recipes that ship with advae.", EXAMPLES, usage="[--json]")
    add_output(made, "a list of {name, method, data, published}")
    return made


def run(args: argparse.Namespace) -> int:
    """Print the list."""
    found = listing()
    if args.json:
        print_json([{key: row[key] for key in ("name", "method", "data", "published")} for row in found])
        return 0
    columns = ("recipe", "method", "data", "published", "what")
    rows = [(r["name"], r["method"], r["data"], r["published"] or "–", r["description"]) for r in found]
    print_table(columns, rows)
    return 0


def listing() -> list[dict[str, Any]]:
    """Name, method, data, published figure and description of every recipe."""
    from advae.config import DEFAULTS, merge, read_recipe, recipes

    rows = []
    for name in recipes():
        tree = merge(DEFAULTS, read_recipe(name))
        rows.append(
            {
                "name": name,
                "method": tree["method"]["name"],
                "data": str(tree.get("data", {}).get("source", "digits")),
                "published": str(tree.get("published") or ""),
                "description": str(tree.get("description") or ""),
            }
        )
    return rows
