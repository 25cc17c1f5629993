"""Frozen dataclasses from config sections."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

from fourd4d.core.errors import InputError

T = TypeVar("T")


def frozen(cls: type[T], section: ConfigDict | Mapping[str, Any], where: str, **extra: Any) -> T:
    """A frozen dataclass from a config section. Raises InputError on unknown fields."""
    values = section.to_dict() if isinstance(section, ConfigDict) else dict(section)
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise InputError(f"config.{where}", f"unknown fields {unknown}", f"Known: {known}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return cls(**(values | extra))
