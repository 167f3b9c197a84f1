"""The reference pages of the site, made from the code at each build: settings and commands.

mkdocs calls :func:`on_files`; nothing that is written here can disagree with what the package does.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Any, Union, get_args, get_origin

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.cli import get_docs_for_click

from sptar.cli.app import application
from sptar.config import RunConfig

__all__ = ["commands_page", "on_files", "settings_page"]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those of the folder."""
    for path, text in (
        ("reference/settings.md", settings_page()),
        ("reference/commands.md", commands_page()),
    ):
        files.append(File.generated(config, path, content=text))
    return files


def settings_page() -> str:
    """Every setting of a config with type, default and meaning, section by section."""
    lines = [
        "# Settings",
        "",
        "A run is one YAML file. Settings marked *speed* change how fast something happens or on "
        "what, never the result: they stay out of an artefact's identity.",
        "",
        *_table("The run itself", RunConfig, sections=False),
    ]
    for name, field in RunConfig.model_fields.items():
        section = _section(field.annotation)
        if section is not None:
            lines += _table(f"`{name}`", section, sections=True)
    return "\n".join(lines)


def _table(title: str, model: type[BaseModel], *, sections: bool) -> Iterator[str]:
    yield f"## {title}"
    yield ""
    if sections:
        yield (model.__doc__ or "").strip()
        yield ""
    yield "| setting | values | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for name, field in model.model_fields.items():
        if not sections and _section(field.annotation) is not None:
            continue
        speed = isinstance(field.json_schema_extra, dict) and (
            field.json_schema_extra.get("changes_results") is False
        )
        cells = [
            f"`{name}`",
            _values(field.annotation),
            _default(field),
            ("*Speed.* " if speed else "") + (field.description or ""),
        ]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _section(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _values(annotation: Any) -> str:
    origin = get_origin(annotation)
    parts = get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(_values(part) for part in parts if part is not type(None))
    if parts and str(origin) == "typing.Literal":
        return ", ".join(f"`{part}`" for part in parts)
    if origin is list:
        return f"list of {_values(parts[0])}"
    if origin is dict:
        return f"{_values(parts[0])} → {_values(parts[1])}"
    if origin is not None:  # Annotated
        return _values(parts[0])
    words = {"str": "text", "int": "whole number", "float": "number", "bool": "`true`, `false`"}
    return words.get(getattr(annotation, "__name__", ""), "value")


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "needed"
    if value is None or value in ("", {}, []):
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list):
        return ", ".join(f"`{item}`" for item in value)
    return f"`{value}`"


def commands_page() -> str:
    """Every command with its arguments and options."""
    command = typer.main.get_command(application)
    return get_docs_for_click(
        obj=command, ctx=typer.Context(command), name="sptar", title="Commands"
    )
