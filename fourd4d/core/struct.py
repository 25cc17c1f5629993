"""Frozen dataclasses that are JAX pytrees."""

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

import jax
import numpy as np

T = TypeVar("T")

# Array types of fields that live on the host or on a device. Static checkers cannot know which.
if TYPE_CHECKING:
    AnyArray = Any
else:
    AnyArray = jax.Array | np.ndarray


@dataclass_transform(frozen_default=True)
def pytree(cls: type[T]) -> type[T]:
    """Makes ``cls`` a frozen dataclass and a pytree with one child per field.

    Unflattening does not run ``__init__``: trees of shardings, shapes or masks take the place of
    the arrays, and array annotations would reject them.
    """
    cls = dataclasses.dataclass(frozen=True)(cls)
    names = tuple(field.name for field in dataclasses.fields(cls))  # type: ignore[arg-type]

    def flatten_with_keys(value: Any) -> tuple[list[tuple[Any, Any]], None]:
        return [(jax.tree_util.GetAttrKey(n), getattr(value, n)) for n in names], None

    def flatten(value: Any) -> tuple[list[Any], None]:
        return [getattr(value, n) for n in names], None

    def unflatten(_: None, children: Any) -> Any:
        value = object.__new__(cls)
        for name, child in zip(names, children, strict=True):
            object.__setattr__(value, name, child)
        return value

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
