"""The page: figures embedded in a light and a dark rendering, in one HTML file that asks for nothing else."""

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

from advae.io import write_atomically
from advae.report.figures.style import DARK, LIGHT, Theme, png


@dataclass(frozen=True)
class Plate:
    """A figure of the page: both renderings as data URIs, its width in CSS pixels, and its caption."""

    light: str
    dark: str
    width: int
    title: str
    caption: str


def plate(draw: Callable[[Theme], Figure], title: str, caption: str, *, file: Path | None = None) -> Plate:
    """Draw a figure in both themes; the light one on paper also goes to ``file`` as a PNG of its own."""
    light, dark = draw(LIGHT), draw(DARK)
    if file is not None:
        write_atomically(file, png(light, LIGHT))
    day, night = png(light, LIGHT, transparent=True), png(dark, DARK, transparent=True)
    return Plate(_uri(day), _uri(night), png_size(day)[0] // 2, title, caption)


def png_size(image: bytes) -> tuple[int, int]:
    """Width and height of a PNG in pixels, from its header."""
    width, height = struct.unpack(">II", image[16:24])
    return width, height


def render(template: str, **values: Any) -> str:
    """A page from a template of this folder; every value is escaped."""
    return _templates().get_template(template).render(light=LIGHT, dark=DARK, **values)


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _uri(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()
