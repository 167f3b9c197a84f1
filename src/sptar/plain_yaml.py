"""Reads YAML as plain values: text, numbers, yes or no, nothing, lists and tables.

What a config needs of YAML and no more. Text that would only surprise later is refused with its
line: a key that stands twice, a tag, a number that is none, aliases that multiply, nesting without
end. A date is text: no setting is one, and a run may be called 2024-05-01.
"""

from __future__ import annotations

from typing import Any

import yaml

from sptar.errors import ConfigError

__all__ = ["LARGEST_INTEGER", "MOST_CHARACTERS", "read_plain_yaml"]

MOST_CHARACTERS = 200_000
"""Longest text that is read; the longest config of this project has some 5,000 characters."""
LARGEST_INTEGER = 2**63 - 1
_DEEPEST = 20
_MOST_VALUES = 20_000
_TAG = "tag:yaml.org,2002:"
_KINDS = {
    f"{_TAG}int": "whole number",
    f"{_TAG}float": "number",
    f"{_TAG}bool": "true or false",
    f"{_TAG}null": "null",
    f"{_TAG}str": "text",
}
_SHOWN = 40


class _Loader(yaml.SafeLoader):
    """The safe loader without dates."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_plain_yaml(text: str, where: str, *, lines: bool = True) -> Any:
    """The value that a YAML text holds.

    Args:
        where: what stands at the beginning of messages.
        lines: whether the line follows it there.

    Raises:
        ConfigError: the text is no YAML, or holds more than plain values; with its line.
    """
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(
            f"{where}: {len(text):,} characters are no config (at most {MOST_CHARACTERS:,}).",
            hint="Data belong into files of their own, which the config names.",
        )
    try:
        return _Reader(where, lines).read(text)
    except yaml.reader.ReaderError as error:
        raise ConfigError(
            f"{where}: not valid YAML: the character U+{error.character:04X} may not stand in it."
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "the text cannot be parsed"
        raise ConfigError(
            f"{_place(where, mark if lines else None)}: not valid YAML: {problem}."
        ) from None


def _place(where: str, mark: Any) -> str:
    return where if mark is None else f"{where}:{mark.line + 1}"


class _Reader:
    """One text on its way to a value."""

    def __init__(self, where: str, lines: bool) -> None:
        self._where = where
        self._lines = lines
        self._sizes: dict[int, int] = {}
        self._open: set[int] = set()

    def read(self, text: str) -> Any:
        self._refuse_depth(text)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            self._check(node, loader)
            return loader.construct_document(node)
        finally:
            loader.dispose()

    def _refuse_depth(self, text: str) -> None:
        """Before anything recursive reads the text."""
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > _DEEPEST:
                    raise self._refused(event, f"is nested more than {_DEEPEST} levels deep")
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1

    def _check(self, node: yaml.Node, loader: _Loader) -> int:
        """Refuse what is more than a plain value; how many values a node stands for."""
        key = id(node)
        if key in self._open:
            raise self._refused(node, "holds itself through an alias")
        if key in self._sizes:
            return self._sizes[key]
        self._open.add(key)
        size = 1
        if isinstance(node, yaml.ScalarNode):
            self._check_scalar(node, loader)
        elif isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            self._refuse_repeats(node)
            size += sum(
                self._check(name, loader) + self._check(v, loader) for name, v in node.value
            )
        elif isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            size += sum(self._check(item, loader) for item in node.value)
        else:
            raise self._tagged(node)
        if size > _MOST_VALUES:
            raise self._refused(
                node, f"stands for more than {_MOST_VALUES:,} values, aliases counted"
            )
        self._open.discard(key)
        self._sizes[key] = size
        return size

    def _check_scalar(self, node: yaml.ScalarNode, loader: _Loader) -> None:
        if node.tag == f"{_TAG}merge":
            return
        if node.tag not in _KINDS:
            raise self._tagged(node)
        try:
            value = loader.construct_object(node)
        except (ValueError, KeyError, IndexError, OverflowError):
            raise self._refused(node, f"is no {_KINDS[node.tag]}") from None
        if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            raise self._refused(node, "is too large a number")

    def _refuse_repeats(self, node: yaml.MappingNode) -> None:
        lines: dict[tuple[str, str], int] = {}
        for name, _ in node.value:
            if not isinstance(name, yaml.ScalarNode) or name.tag == f"{_TAG}merge":
                continue
            key = (name.tag, name.value)
            if key in lines:
                raise self._refused(name, f"stands twice, first in line {lines[key]}")
            lines[key] = name.start_mark.line + 1

    def _tagged(self, node: yaml.Node) -> ConfigError:
        tag = str(node.tag).replace(_TAG, "!!")
        return ConfigError(
            f"{self._place(node)}: the tag '{_short(tag)}' has no meaning here.",
            hint="Write the value without it.",
        )

    def _place(self, thing: yaml.Node | yaml.Event) -> str:
        return _place(self._where, thing.start_mark if self._lines else None)

    def _refused(self, thing: yaml.Node | yaml.Event, why: str) -> ConfigError:
        value = getattr(thing, "value", None)
        shown = f"'{_short(value)}'" if isinstance(value, str) else "the value"
        return ConfigError(f"{self._place(thing)}: {shown} {why}.")


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
