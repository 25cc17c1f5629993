"""Logical axis names → mesh axes, for weights and for activations."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
from jax.sharding import AxisType, Mesh, PartitionSpec

from fourd4d.core.errors import InputError

MeshAxes = tuple[str, ...]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Rules:
    """Where each logical axis lies.

    Attributes:
      table: logical axis → mesh axes it is split over; ``()`` replicates it.
      activations: entries that differ for activations. Weights split ``embed`` over ``fsdp``,
        which activations already use for their rows.
      replicable: logical axes that are replicated where their size does not divide. Any other
        axis that does not divide is an error.
    """

    table: Mapping[str, MeshAxes]
    activations: Mapping[str, MeshAxes] = dataclasses.field(default_factory=dict)
    replicable: frozenset[str] = frozenset()

    def mesh_axes(self, name: str | None, activation: bool = False) -> MeshAxes:
        """Raises InputError on a name that the table lacks."""
        if name is None:
            return ()
        if name not in self.table:
            raise InputError("sharding rules", f"unknown logical axis {name!r}",
                             f"Known: {sorted(self.table)}")
        return self.activations.get(name, self.table[name]) if activation else self.table[name]

    def split_axes(self, name: str | None, sizes: Mapping[str, int], activation: bool = False
                   ) -> MeshAxes:
        """Those of ``mesh_axes`` that have more than one device."""
        return tuple(a for a in self.mesh_axes(name, activation) if sizes.get(a, 1) > 1)

    def replicating(self, *names: str) -> Rules:
        """The same rules with ``names`` replicated where they do not divide."""
        for name in names:
            self.mesh_axes(name)
        return dataclasses.replace(self, replicable=self.replicable | set(names))

    def spec(self, axes: Sequence[str | None], shape: Sequence[int], sizes: Mapping[str, int],
             where: object = "array", activation: bool = False) -> PartitionSpec:
        """Partition of an array of ``shape`` whose axes are named ``axes``.

        Args:
          axes: logical name of each axis, None for one that is never split.
          sizes: mesh axis → size; mesh axes of size 1 are left out.
          where: the array's name, for errors.

        Raises:
          InputError: an unknown name, a wrong number of names, two logical axes on one mesh axis,
            or a size that does not divide.
        """
        if len(axes) != len(shape):
            raise InputError(where, f"{len(axes)} logical axes {tuple(axes)} for shape "
                             f"{tuple(shape)}", "Name every axis of the array")
        taken: dict[str, str] = {}
        parts: list[Any] = []
        for name, size in zip(axes, shape, strict=True):
            mine = self.split_axes(name, sizes, activation)
            for axis in mine:
                if axis in taken:
                    raise InputError(
                        where, f"logical axes {taken[axis]!r} and {name!r} both lie on mesh axis "
                        f"{axis!r}", "Change one of them in the rules")
                taken[axis] = str(name)
            split = math.prod(sizes[a] for a in mine)
            if activation and size == 1:  # A token of a decoding step: nothing to split.
                mine = ()
            elif size % split:
                if name not in self.replicable:
                    raise InputError(
                        where, f"axis {name!r} has size {size}, which {split} devices of mesh axes "
                        f"{mine} do not divide", f"Change the mesh, or list {name!r} as replicable")
                mine = ()
            parts.append(mine if len(mine) > 1 else mine[0] if mine else None)
        return PartitionSpec(*parts)


DEFAULT_RULES = Rules(
    table={
        "batch": ("data", "fsdp"),
        "length": ("context",),
        "layers": (),
        "embed": ("fsdp",),
        "mlp": ("tensor",),
        "heads": ("tensor",),
        "kv_heads": ("tensor",),
        "head_dim": (),
        "vocab": ("tensor",),
        "slots": (),
        "windows": (),
        "patches": (),
        "patch_dim": (),
        "vision_embed": ("fsdp",),
        "vision_mlp": ("tensor",),
        "vision_heads": ("tensor",),
        "latents": (),
    },
    activations={"embed": (), "vision_embed": (), "patch_dim": ()},
)

_rules: contextvars.ContextVar[Rules] = contextvars.ContextVar("rules", default=DEFAULT_RULES)
_platform: contextvars.ContextVar[str] = contextvars.ContextVar("platform", default="")


@contextlib.contextmanager
def use(mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Iterator[Mesh]:
    """Within it ``constrain`` and ``partition`` speak of this mesh and these rules.

    The mesh is part of jit's cache key, the rules are not: keep one table per mesh.
    """
    tokens = _rules.set(rules), _platform.set(mesh.devices.flat[0].platform)
    try:
        with jax.set_mesh(mesh):
            yield mesh
    finally:
        _rules.reset(tokens[0])
        _platform.reset(tokens[1])


def in_this_context() -> Callable[[Callable[[], T]], T]:
    """Returns what calls a function under this thread's mesh and rules in any other, several at
    once if need be. New threads have neither."""
    context, mesh = contextvars.copy_context(), jax.sharding.get_mesh()

    def call(function: Callable[[], T]) -> T:
        def inside() -> T:
            with contextlib.nullcontext() if mesh.empty else jax.set_mesh(mesh):
                return function()

        return context.copy().run(inside)

    return call


def row_split(mesh: Mesh) -> int:
    """Devices over which ``mesh`` splits the rows of a batch, by the default rules."""
    return math.prod(mesh.shape[axis] for axis in DEFAULT_RULES.mesh_axes("batch", True))


def platform() -> str:
    """``tpu``, ``gpu`` or ``cpu``: of the current mesh, which may be another machine's."""
    return _platform.get() or jax.default_backend()


def one_cpu() -> bool:
    """Whether what runs here is for a CPU, and for one device."""
    return platform() == "cpu" and math.prod(
        jax.sharding.get_abstract_mesh().axis_sizes) <= 1


def _split_sizes() -> dict[str, int]:
    """Sizes of the context's mesh axes that the compiler may still lay out."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
    return {name: size for name, size, kind in kinds if kind == AxisType.Auto and size > 1}


def partition(shape: Sequence[int], *axes: str | None, where: object = "array") -> PartitionSpec:
    """Partition of an activation under the current mesh and rules, e.g. for ``jax.shard_map``."""
    return _rules.get().spec(axes, shape, _split_sizes(), where, activation=True)


def axes_that_split(name: str, size: int) -> MeshAxes:
    """Mesh axes that split an activation's logical axis here; none where they do not divide it."""
    sizes = _split_sizes()
    axes = _rules.get().split_axes(name, sizes, activation=True)
    return axes if size % math.prod(sizes[a] for a in axes) == 0 else ()


def local_shape(shape: Sequence[int], *axes: str | None) -> tuple[int, ...]:
    """Shape of what a device holds of an activation under the current mesh and rules."""
    sizes, spec = _split_sizes(), partition(shape, *axes)
    names = [(part,) if isinstance(part, str) else part or () for part in spec]
    names += [()] * (len(shape) - len(names))
    return tuple(size // math.prod(sizes[name] for name in own)
                 for size, own in zip(shape, names, strict=True))


def constrain(x: Any, *axes: str | None) -> Any:
    """Lays ``x`` out by its logical axes; the identity outside ``use``.

    ``jax.lax.with_sharding_constraint`` knows mesh axes only, hence this function.
    """
    sizes = _split_sizes()
    if not sizes:
        return x
    spec = _rules.get().spec(axes, x.shape, sizes, f"activation {tuple(axes)}", activation=True)
    return jax.lax.with_sharding_constraint(x, spec)
