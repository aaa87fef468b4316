"""YAML from untrusted files: bounded, without duplicate keys, plain values only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from advae.errors import AdvaeError, ConfigError
from advae.io import PathLike, read_text

MAX_BYTES = 2**20
MAX_DEPTH = 32
MAX_VALUES = 5_000  # with every alias expanded


def read_yaml(path: PathLike, error: type[AdvaeError] = ConfigError) -> Any:
    """Read the value of a YAML file.

    Raises:
        AdvaeError: of type ``error``, as :func:`advae.io.read_text` and :func:`parse_yaml`.
    """
    return parse_yaml(read_text(path, error, max_bytes=MAX_BYTES), str(path), error)


def parse_yaml(text: str, where: str, error: type[AdvaeError] = ConfigError) -> Any:
    """Return the value of YAML text: mappings with string keys, lists, strings, numbers, booleans and None.

    Dates stay strings.

    Args:
        text: one YAML document.
        where: its file or option, for error messages.
        error: type of the error.

    Raises:
        AdvaeError: of type ``error``: the text is not valid YAML, has a key twice, a key that is not a string, a value
            of another type or one that contains itself, or is too deep or, with its aliases expanded, too large.
    """
    try:
        node = yaml.compose(text, _Loader)
        return None if node is None else _Reader(where, error).value(node)
    except yaml.YAMLError as invalid:
        raise error("File is not valid YAML.", given=f"{where}: {invalid}") from None
    except (RecursionError, OverflowError) as limit:
        kind = "is nested too deeply" if isinstance(limit, RecursionError) else "has too many values"
        most = f"at most {MAX_DEPTH} levels and {MAX_VALUES:,} values, with aliases expanded"
        raise error(f"YAML {kind}.", given=where, expected=most) from None


class _Loader(yaml.SafeLoader):
    """PyYAML's safe types without dates. Its parser is slow: what is too deep or too large is noticed early."""

    num_nodes = 0

    def fetch_flow_collection_start(self, token_class: Any) -> None:
        if self.flow_level > MAX_DEPTH:
            raise RecursionError
        super().fetch_flow_collection_start(token_class)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.num_nodes += 1
        if self.num_nodes > MAX_VALUES:
            raise OverflowError
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Reader:
    def __init__(self, where: str, error: type[AdvaeError]) -> None:
        self.where, self.error = where, error
        self.scalars = _Loader("")
        self.open_nodes: list[yaml.Node] = []
        self.num_values = 0

    def value(self, node: yaml.Node) -> Any:
        self.num_values += 1
        if self.num_values > MAX_VALUES:
            raise OverflowError
        if node in self.open_nodes:
            raise self._error("YAML value contains itself.", node)
        if len(self.open_nodes) >= MAX_DEPTH:
            raise RecursionError
        self.open_nodes.append(node)
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == _Loader.DEFAULT_MAPPING_TAG:
                return self._mapping(node)
            if isinstance(node, yaml.SequenceNode) and node.tag == _Loader.DEFAULT_SEQUENCE_TAG:
                return [self.value(item) for item in node.value]
            return self._scalar(node)
        finally:
            self.open_nodes.pop()

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                for base in self._bases(value_node):
                    merged = base | merged
                continue
            key = self.value(key_node)
            if not isinstance(key, str):
                raise self._error("YAML key is not a string.", key_node, given=repr(key), fix="quote it")
            line = key_node.start_mark.line + 1
            if key in lines:
                raise self.error(
                    f"{key!r} occurs twice.",
                    given=f"{self.where}, lines {lines[key]} and {line}",
                    fix="keep one of them",
                )
            own[key], lines[key] = self.value(value_node), line
        return merged | own

    def _bases(self, node: yaml.Node) -> Iterator[dict[str, Any]]:
        for base in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(base, yaml.MappingNode):
                raise self._error("<< merges mappings only.", base)
            yield self.value(base)

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            value = self.scalars.construct_object(node)
        except (
            ArithmeticError,
            LookupError,
            ValueError,
        ) as invalid:  # "!!int x", or more digits than Python reads
            raise self._error("YAML value is invalid.", node, given=invalid) from None
        if value is not None and not isinstance(value, str | bool | int | float):
            raise self._error("YAML value has an unsupported type.", node, given=node.tag)
        return value

    def _error(self, what: str, node: yaml.Node, given: object = None, fix: str | None = None) -> AdvaeError:
        place = f"{self.where}, line {node.start_mark.line + 1}"
        return self.error(what, given=place if given is None else f"{place}: {given}", fix=fix)
