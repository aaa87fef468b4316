"""Self-contained HTML pages: figures embedded in a light and a dark version, and jinja2 templates."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from advae.io import path_inside, write_atomically
from advae.report.figures.style import DARK, LIGHT, to_png


@dataclass(frozen=True)
class HtmlFigure:
    """A figure of a page: both versions as data URIs, its width in CSS pixels, title and caption."""

    light: str
    dark: str
    width: int
    title: str
    caption: str


class HtmlFigures(dict[str, HtmlFigure]):
    """The figures of a page by name, which are also written as PNG, in the light version.

    Args:
        root: an existing folder; nothing is written once it was removed, or through a link that leads out of it.
        subfolder: of it, for the figures.
    """

    def __init__(self, root: Path, subfolder: str = ".") -> None:
        super().__init__()
        self.root, self.subfolder = root, subfolder
        path_inside(root, subfolder)

    def add(
        self, name: str, title: str, caption: str, plot: Callable[..., Figure], *args: Any, **options: Any
    ) -> None:
        """Call ``plot(*args, theme=theme, **options)`` for both themes, and write ``name.png``."""
        light, dark = (plot(*args, theme=theme, **options) for theme in (LIGHT, DARK))
        image = to_png(light, LIGHT)
        write_atomically(path_inside(self.root, self.subfolder, f"{name}.png"), image)
        light_png, dark_png = to_png(light, LIGHT, transparent=True), to_png(dark, DARK, transparent=True)
        width = png_size(light_png)[0] // 2
        self[name] = HtmlFigure(_data_uri(light_png), _data_uri(dark_png), width, title, caption)


def png_size(image: bytes) -> tuple[int, int]:
    """Return width and height of a PNG in pixels, from its header."""
    width, height = struct.unpack(">II", image[16:24])
    return width, height


def render(template: str, **values: Any) -> str:
    """Render a template of ``templates/``; every value is escaped."""
    return _environment().get_template(template).render(light=LIGHT, dark=DARK, **values)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _data_uri(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()
