"""Frozen dataclasses from config sections."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

from fourd4d.core.errors import InputError

T = TypeVar("T")


def frozen(cls: type[T], section: ConfigDict | Mapping[str, Any], where: str, **extra: Any) -> T:
    """Return a frozen dataclass from a config section; a section within is one of its fields.

    Raises InputError on unknown fields.
    """
    values = section.to_dict() if isinstance(section, ConfigDict) else dict(section)
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise InputError(f"config.{where}", f"unknown fields {unknown}", f"Known: {known}")
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}  # type: ignore
    for name, value in values.items():
        inner = type(defaults[name])
        if isinstance(value, dict) and dataclasses.is_dataclass(inner):
            values[name] = frozen(inner, value, f"{where}.{name}")
        elif isinstance(value, list):
            values[name] = tuple(value)
    return cls(**(values | extra))
