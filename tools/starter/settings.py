"""Settings of a training from a YAML file."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sptar.errors import ConfigError

Kind = TypeVar("Kind")


def read_settings(path: Path, kind: type[Kind]) -> Kind:
    """The dataclass ``kind`` with the values of a file; ``3e-4`` may be text, as YAML has it.

    Raises:
        ConfigError: the file is no mapping, or a setting is unknown, missing or no number.
    """
    values: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no settings.")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(str(name) for name in values if name not in known)
    if unknown:
        raise ConfigError(f"{path}: unknown settings: {', '.join(unknown)}.")
    missing = [
        name
        for name, field in known.items()
        if name not in values and field.default is MISSING and field.default_factory is MISSING
    ]
    if missing:
        raise ConfigError(f"{path}: missing settings: {', '.join(missing)}.")
    for name, value in values.items():
        if known[name].type in ("float", float):
            try:
                values[name] = float(value)
            except (TypeError, ValueError):
                raise ConfigError(f"{path}: `{name}: {value}` is no number.") from None
    return kind(**values)
