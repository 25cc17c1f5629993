"""The mesh: axes ``data``, ``fsdp``, ``tensor`` and ``context``, by preset or by size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from fourd4d.core.errors import InputError

AXES: Final = ("data", "fsdp", "tensor", "context")

PRESETS: Final[Mapping[str, Mapping[str, int]]] = {
    "cpu": {"data": -1},
    "single": {"data": 1},
    "gpu-node": {"fsdp": -1},
    "pod": {"fsdp": -1},
}


def axis_sizes(spec: str | Mapping[str, int], devices: int, slices: int = 1) -> dict[str, int]:
    """Sizes of all four axes over ``devices``; one axis may be -1 and takes what is left.

    Args:
      spec: a preset's name, ``"data=2,fsdp=-1"``, or a mapping of axis to size. Axes not named
        have size 1.
      devices: number of devices to lay out; a spec without -1 may use fewer.
      slices: slices of the accelerator (joined by the slower network); the ``pod`` preset gives
        each its own ``data`` index.

    Raises:
      InputError: unknown preset or axis, more than one -1, or sizes that do not fit the devices.
    """
    where = "mesh"
    if isinstance(spec, str) and spec in PRESETS:
        wanted = dict(PRESETS[spec])
        if spec == "pod" and slices > 1:
            wanted["data"] = slices
    elif isinstance(spec, str):
        pairs = [part.split("=") for part in spec.replace(" ", "").split(",") if part]
        if not pairs or any(len(p) != 2 or not p[1].lstrip("-").isdigit() for p in pairs):
            raise InputError(where, f"{spec!r} is neither a preset nor axis sizes",
                             f"Presets: {sorted(PRESETS)}; sizes read 'data=2,fsdp=-1'")
        wanted = {name: int(size) for name, size in pairs}
    else:
        wanted = dict(spec)
    unknown = sorted(set(wanted) - set(AXES))
    if unknown:
        raise InputError(where, f"unknown axes {unknown}", f"The axes are {list(AXES)}")
    sizes = {axis: int(wanted.get(axis, 1)) for axis in AXES}
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise InputError(where, f"axes {free} are all -1", "Leave one axis to be inferred")
    if any(size < 1 for axis, size in sizes.items() if axis not in free):
        raise InputError(where, f"sizes {wanted}", "A size is at least 1, or -1 to infer it")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if free:
        if devices % fixed:
            raise InputError(where, f"{devices} devices do not divide by {fixed} ({wanted})",
                             "Choose sizes whose product divides the number of devices")
        sizes[free[0]] = devices // fixed
    elif fixed > devices:
        raise InputError(where, f"sizes {wanted} need {fixed} devices, {devices} are here",
                         "Lower a size, or set it to -1")
    return sizes


def make_mesh(spec: str | Mapping[str, int] = "cpu", devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over ``devices`` (all by default); ``spec`` as in ``axis_sizes``.

    Neighbours on the ``tensor`` and ``context`` axes are neighbours on the interconnect; two axes
    share a dimension of the torus where the sizes need it; across slices only ``data`` may extend.
    """
    devices = list(jax.devices() if devices is None else devices)
    slices = len({getattr(d, "slice_index", 0) or 0 for d in devices})
    sizes = axis_sizes(spec, len(devices), slices)
    # Bandwidth-hungry axes come last: the last axes vary fastest over the devices.
    shape = tuple(sizes[axis] for axis in AXES)
    devices = devices[: math.prod(shape)]
    if devices[0].platform == "tpu" and slices > 1:
        if sizes["data"] % slices:
            raise InputError("mesh", f"data={sizes['data']} over {slices} slices",
                             "Make data a multiple of the number of slices")
        inner = (sizes["data"] // slices, *shape[1:])
        grid = mesh_utils.create_hybrid_device_mesh(inner, (slices, 1, 1, 1), devices,
                                                    allow_split_physical_axes=True)
    elif devices[0].platform == "tpu":
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    else:
        grid = np.array(devices).reshape(shape)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
