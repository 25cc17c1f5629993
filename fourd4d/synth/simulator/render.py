"""Renderer: one analytic ray per sub-pixel, jitted and batched over clips.

Every solid is intersected in closed form, so masks and depth are exact and a clip costs a few
million multiply-adds: cheap on a CPU core, many clips at a time on an accelerator.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8

from fourd4d.synth.simulator.scene import Scene

_FAR = 1e6


class Load(NamedTuple):
    """What a device renders well at once: rays of a clip, plain or rich, and clips of a call."""

    plain_rays: int
    rich_rays: int
    clips: int


# Clips with more rays are drawn frame by frame: a core's caches would not hold them.
_CORE, _ACCELERATOR = Load(300_000, 0, 16), Load(1 << 24, 1 << 24, 128)


def load() -> Load:
    """Return the load of the default device. Memory grows with it."""
    return _CORE if jax.default_backend() == "cpu" else _ACCELERATOR


def _near(value: jax.Array) -> jax.Array:
    """Move values away from zero, keeping the sign, so that one can divide by them."""
    return jnp.where(jnp.abs(value) < 1e-6, 1e-6, value)


def _first(hits: Sequence[tuple[jax.Array, jax.Array]]) -> jax.Array:
    """Return the smallest positive distance among (distance, valid) candidates."""
    out = jnp.full_like(hits[0][0], _FAR)
    for distance, valid in hits:
        out = jnp.where(valid & (distance > 1e-3) & (distance < out), distance, out)
    return out


def _ball(o: jax.Array, d: jax.Array) -> jax.Array:
    b, c = (o * d).sum(0), (o * o).sum(0) - 1
    a = (d * d).sum(0)
    disc = b * b - a * c
    return _first([((-b - jnp.sqrt(jnp.maximum(disc, 0))) / a, disc > 0)])


def _cube(o: jax.Array, d: jax.Array) -> jax.Array:
    inv = 1 / _near(d)
    one, two = (-1 - o) * inv, (1 - o) * inv
    enter, leave = jnp.minimum(one, two).max(0), jnp.maximum(one, two).min(0)
    return _first([(enter, enter < leave)])


def _cylinder(o: jax.Array, d: jax.Array) -> jax.Array:
    a = _near(d[0] ** 2 + d[2] ** 2)
    b = o[0] * d[0] + o[2] * d[2]
    disc = b * b - a * (o[0] ** 2 + o[2] ** 2 - 1)
    root = jnp.sqrt(jnp.maximum(disc, 0))
    inv = 1 / _near(d[1])
    one, two = (-1 - o[1]) * inv, (1 - o[1]) * inv
    enter = jnp.maximum((-b - root) / a, jnp.minimum(one, two))
    leave = jnp.minimum((-b + root) / a, jnp.maximum(one, two))
    return _first([(enter, (disc > 0) & (enter < leave))])


def _cone(o: jax.Array, d: jax.Array) -> jax.Array:
    # Apex at y = -1, base of radius 1 at y = 1: x² + z² = ((y + 1) / 2)².
    k, m = (o[1] + 1) / 2, d[1] / 2
    a = _near(d[0] ** 2 + d[2] ** 2 - m * m)
    b = o[0] * d[0] + o[2] * d[2] - k * m
    disc = b * b - a * (o[0] ** 2 + o[2] ** 2 - k * k)
    root = jnp.sqrt(jnp.maximum(disc, 0))
    hits = []
    for t in ((-b - root) / a, (-b + root) / a):
        y = o[1] + t * d[1]
        hits.append((t, (disc > 0) & (y > -1) & (y < 1)))
    t = (1 - o[1]) / _near(d[1])
    hits.append((t, (o[0] + t * d[0]) ** 2 + (o[2] + t * d[2]) ** 2 < 1))
    return _first(hits)


def _cube_normal(p: jax.Array) -> jax.Array:
    return jnp.where(jnp.abs(p) >= jnp.abs(p).max(0) - 1e-4, jnp.sign(p), 0.0)


def _cylinder_normal(p: jax.Array) -> jax.Array:
    zero = jnp.zeros_like(p[0])
    cap = jnp.stack([zero, jnp.sign(p[1]), zero])
    return jnp.where(jnp.abs(p[1]) > 1 - 1e-3, cap, jnp.stack([p[0], zero, p[2]]))


def _cone_normal(p: jax.Array) -> jax.Array:
    zero = jnp.zeros_like(p[0])
    slope = jnp.stack([p[0], -0.5 * jnp.sqrt(p[0] ** 2 + p[2] ** 2), p[2]])
    return jnp.where(p[1] > 1 - 1e-3, jnp.stack([zero, zero + 1, zero]), slope)


def _no_hit(o: jax.Array, d: jax.Array) -> jax.Array:
    return jnp.full_like(d[0], _FAR) + 0 * o[0]


_HITS = (_ball, _cube, _cylinder, _cone, _no_hit)
_NORMALS = (lambda p: p, _cube_normal, _cylinder_normal, _cone_normal, jnp.ones_like)


def _rays(height: int, width: int, focal: jax.Array) -> jax.Array:
    """Return camera-axes directions (3, P) with z = 1: distance along a ray is z-depth."""
    ys, xs = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij")
    flat = [(xs.ravel() - width / 2) / height / focal, (ys.ravel() - height / 2) / height / focal]
    return jnp.stack([*flat, jnp.ones(height * width)])


def _background(d: jax.Array, scene: dict[str, jax.Array]) -> jax.Array:
    """Return the colours of hills and clouds at infinity, which only rotation moves."""
    level = jnp.sqrt(d[0] ** 2 + d[2] ** 2 + 1e-9)
    rise = -d[1] / level
    waves = [(d[0] / level, d[2] / level)]
    for _ in range(4):  # Sines and cosines of 2, 4, 8 and 16 times the azimuth.
        sine, cosine = waves[-1]
        waves.append((2 * sine * cosine, 1 - 2 * sine * sine))
    phase = scene["phase"]

    def wave(doublings: int, k: int) -> jax.Array:
        return waves[doublings][0] * jnp.cos(phase[k]) + waves[doublings][1] * jnp.sin(phase[k])

    hills = 0.10 + 0.06 * wave(2, 0) + 0.045 * wave(3, 1)
    stripe = (wave(4, 2) > 0).astype(d.dtype)
    far = scene["far"]
    up = jnp.clip(rise, 0, 1)
    sky = scene["sky"]
    clouds = 0.05 * wave(2, 3) * jnp.sin(9 * up + phase[1])
    return jnp.where(rise < hills, _mix(far[0], far[1], stripe),
                     _mix(sky[1], sky[0], up) + clouds)


def _spread(colour: jax.Array, like: jax.Array) -> jax.Array:
    return colour.reshape(3, *([1] * (like.ndim - 1)))


def _mix(one: jax.Array, other: jax.Array, share: jax.Array) -> jax.Array:
    """Mix two colours (3,) by a share of any shape; (3, …)."""
    like = share[None]
    return _spread(one, like) * share + _spread(other, like) * (1 - share)


def _noise(x: jax.Array, y: jax.Array) -> jax.Array:
    """Return smooth value noise on the unit grid, -1 … 1."""
    cell_x, cell_y = jnp.floor(x), jnp.floor(y)
    u, v = x - cell_x, y - cell_y
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)

    def corner(i: int, j: int) -> jax.Array:
        # Integer hash, so that every device draws the same texture.
        a = (cell_x + i).astype(jnp.int32).astype(jnp.uint32) * jnp.uint32(0x9E3779B1)
        a = (a ^ ((cell_y + j).astype(jnp.int32).astype(jnp.uint32) * jnp.uint32(0x85EBCA6B)))
        a = (a ^ (a >> 15)) * jnp.uint32(0x2C1B3C6D)
        return ((a ^ (a >> 12)) & 0xFFFF).astype(jnp.float32) / 32767.5 - 1

    top = corner(0, 0) * (1 - u) + corner(1, 0) * u
    return top * (1 - v) + (corner(0, 1) * (1 - u) + corner(1, 1) * u) * v


def _clip(scene: dict[str, jax.Array], height: int, width: int, rich: bool
          ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return RGB (3, T, P), index of the object seen (T, P), -1 for none, and z-depth (T, P)."""
    turn, eye = scene["poses"][:, :3, :3], scene["poses"][:, :3, 3].T[:, :, None]
    d = jnp.einsum("tij,jp->itp", turn, _rays(height, width, scene["focal"]))
    light, light3 = scene["light"], _spread(scene["light"], d)

    down = d[1] > 1e-4
    ground_t = jnp.where(down, -eye[1] / jnp.where(down, d[1], 1.0), _FAR)
    ground_t = jnp.where(ground_t > 200.0, _FAR, ground_t)
    reach = jnp.minimum(ground_t, 200.0)
    spot_x, spot_z = eye[0] + reach * d[0], eye[2] + reach * d[2]
    checker = jnp.mod(jnp.floor(spot_x) + jnp.floor(spot_z), 2)
    checker = 0.5 + (checker - 0.5) * jnp.exp(-reach / 25.0)
    shadow = jnp.ones_like(spot_x)

    def thing(i: int | jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        """Draw object ``i`` into the image so far."""
        near, number, painted, shadow = state
        half, centers = scene["half"][i], scene["centers"][:, i].T[:, :, None]
        kind = jnp.where(half[0] > 0, scene["shape"][i], len(_HITS) - 1)
        c, s = jnp.cos(scene["yaw"][i]), jnp.sin(scene["yaw"][i])
        own = jnp.array([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]])
        size = _spread(jnp.maximum(half, 1e-6), d)
        o = jnp.einsum("ij,jtp->itp", own, eye - centers) / size
        r = jnp.einsum("ij,jtp->itp", own, d) / size
        t = jax.lax.switch(kind, _HITS, jnp.broadcast_to(o, r.shape), r)
        p = o + jnp.minimum(t, 200.0) * r
        n = jax.lax.switch(kind, _NORMALS, p) / size
        lit = (n * jnp.einsum("ji,itp->jtp", own, jnp.broadcast_to(light3, d.shape))).sum(0)
        shade = jnp.maximum(lit, 0) * jax.lax.rsqrt((n * n).sum(0) + 1e-9)
        contrast, cycles = scene["texture"][i]
        waves = jnp.sin(6.2832 * cycles * half[1] * p[1])
        waves = waves * jnp.sin(3.1416 * cycles * half[0] * p[0])
        surface = _spread(scene["colour"][i], d) * (0.5 + 0.6 * shade) * (1 + contrast * waves)
        if rich:
            grain = _noise(7 * p[0] + 13 * i, 7 * p[1]) + _noise(7 * p[2], 5 * p[1] + 29 * i)
            surface = surface * (1 + 0.3 * scene["detail"] * grain)
        closer = t < near
        near = jnp.where(closer, t, near)
        number = jnp.where(closer, i, number)
        painted = jnp.where(closer, surface, painted)
        # The shadow of the bounding ellipse, cast along the light onto y = 0.
        throw = centers[1] / jnp.minimum(light[1], -0.2)
        apart = (spot_x - centers[0] + light[0] * throw) ** 2
        apart = apart + (spot_z - centers[2] + light[2] * throw) ** 2
        shadow = shadow * (1 - 0.45 * jnp.clip(1.5 - apart / (half[0] + 1e-6) ** 2, 0, 1))
        return near, number, painted, shadow

    state = ground_t, jnp.full(ground_t.shape, -1), jnp.zeros_like(d), shadow
    things = scene["half"].shape[0]
    if rich:  # Scenes have room for many objects and hold few; one loop body compiles fast.
        def step(i: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            there = scene["half"][i, 0] > 0
            return jax.lax.cond(there, lambda old: thing(i, old), lambda old: old, state)

        state = jax.lax.fori_loop(0, things, step, state)
    else:
        for i in range(things):
            state = thing(i, state)
    near, number, painted, shadow = state

    ground = _mix(scene["ground"][0], scene["ground"][1], checker)
    if rich:
        # Coarse grain stays visible far out; fine grain fades before it can alias.
        coarse = _noise(1.7 * spot_x, 1.7 * spot_z) * jnp.exp(-reach / 18.0)
        fine = _noise(6.3 * spot_x, 6.3 * spot_z) * jnp.exp(-reach / 6.0)
        ground = ground * (1 + scene["detail"] * (0.35 * coarse + 0.45 * fine))
    sky = _background(d, scene)
    if rich:
        level = jnp.sqrt(d[0] ** 2 + d[2] ** 2 + 1e-9)
        bumps = _noise(24 * d[0] / level, 24 * d[1] / level) + _noise(24 * d[2] / level, sky[0] * 0)
        sky = sky * (1 + 0.25 * scene["detail"] * bumps)
    behind = jnp.where(ground_t < _FAR, ground * shadow, sky)
    colour = jnp.where(number >= 0, painted, behind)
    if rich:
        keep = (1 - scene["fog"]) ** (jnp.minimum(near, 60.0) / 10.0)
        colour = colour * keep + _spread(scene["sky"][0], d) * (1 - keep)
    return colour, number, near


@functools.partial(jax.jit, static_argnames=("height", "width", "fine", "rich", "whole"))
def _render(scenes: dict[str, jax.Array], height: int, width: int, fine: int, rich: bool,
            whole: bool):
    """Return (B, T, H, W, 3) uint8, (B, T, N, H, W) bool, (B, T, H, W) metres."""

    def clip(scene: dict[str, jax.Array]):
        things, frames = scene["half"].shape[0], scene["poses"].shape[0]
        rgb, number, depth = _clip(scene, height * fine, width * fine, rich)
        cells = (frames, height, fine, width, fine)
        image = rgb.reshape(3, *cells).mean((3, 5)).transpose(1, 2, 3, 0)
        seen = (number[:, None] == jnp.arange(things)[:, None]).reshape(frames, things, *cells[1:])
        masks = seen.mean((3, 5)) >= 0.5
        z = depth.reshape(cells).min((2, 4))
        pixels = jnp.clip(jnp.sqrt(jnp.clip(image, 0, 1)) * 255 + 0.5, 0, 255)
        return pixels.astype(jnp.uint8), masks, z

    if whole:
        return jax.lax.map(clip, scenes)

    def frame_by_frame(scene: dict[str, jax.Array]):
        def one(moment: tuple[jax.Array, jax.Array]):
            pose, centers = moment
            parts = clip({**scene, "poses": pose[None], "centers": centers[None]})
            return jax.tree.map(lambda part: part[0], parts)

        return jax.lax.map(one, (scene["poses"], scene["centers"]))

    return jax.lax.map(frame_by_frame, scenes)


def render(
    scenes: Sequence[Scene], height: int, width: int, fine: int = 2
) -> tuple[
    UInt8[np.ndarray, "B T {height} {width} 3"],
    Bool[np.ndarray, "B T N {height} {width}"],
    Float[np.ndarray, "B T {height} {width}"],
]:
    """Render frames, visible masks and z-depth (metres; 1e6 is sky) of scenes of equal T and N.

    ``fine`` squared rays a pixel are averaged. A mask holds the pixels of which an object covers
    half or more. Memory grows with the number of scenes, not with the rays of a clip.
    """
    rich = any(s.detail > 0 or s.fog > 0 for s in scenes)
    fields = {
        name: jnp.asarray(np.stack([np.asarray(getattr(s, name)) for s in scenes]),
                          jnp.int32 if name == "shape" else jnp.float32)
        for name in Scene.__dataclass_fields__
    }
    rays = scenes[0].poses.shape[0] * height * width * fine * fine
    whole = rays <= (load().rich_rays if rich else load().plain_rays)
    with jax.default_matmul_precision("highest"):  # Else accelerators round ray directions.
        images, masks, depth = _render(fields, height, width, fine, rich, whole)
    return np.asarray(images), np.asarray(masks), np.asarray(depth)
