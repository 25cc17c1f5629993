"""A scene and its counterpart: the same things, one fact about their motion changed.

The labels of the counterpart are computed from its own truth, like any scene's. Whether a question
about both has two answers is seen there; ``changes_of`` only leaves out what cannot work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float

from fourd4d.core.errors import InputError
from fourd4d.synth.clip import OPPOSITE_MOVE
from fourd4d.synth.simulator.sample_scene import SampledScene

_LEFT_RIGHT: Final = np.diag([-1.0, 1.0, 1.0])


def mirrored(drawn: SampledScene) -> SampledScene:
    """Left and right exchanged: things, their motion, camera and light.

    The pattern of the ground and what lies at the horizon stay as they are.
    """
    scene = drawn.scene
    poses = scene.poses.copy()
    poses[:, :3, :3] = _LEFT_RIGHT @ poses[:, :3, :3] @ _LEFT_RIGHT
    poses[:, :3, 3] = poses[:, :3, 3] @ _LEFT_RIGHT
    return dataclasses.replace(
        drawn, moves=_moved(drawn, lambda move: _mirrored_move(move)),
        scene=dataclasses.replace(scene, poses=poses, centers=scene.centers @ _LEFT_RIGHT,
                                  yaw=-scene.yaw, light=scene.light @ _LEFT_RIGHT))


def reversed_(drawn: SampledScene) -> SampledScene:
    """Everything backwards in time."""
    scene = drawn.scene
    moves = _moved(drawn, lambda move: OPPOSITE_MOVE.get(move, move))[::-1]
    return dataclasses.replace(drawn, moves=moves, scene=dataclasses.replace(
        scene, poses=scene.poses[::-1], centers=scene.centers[::-1]))


def path_reversed(drawn: SampledScene) -> SampledScene:
    """The main thing goes its way backwards; camera, landmark and all others do what they did."""
    centers: Float[np.ndarray, "T N 3"] = drawn.scene.centers.copy()
    centers[:, 0] = centers[::-1, 0]
    return dataclasses.replace(drawn, scene=dataclasses.replace(drawn.scene, centers=centers))


CHANGES: Final[Mapping[str, Callable[[SampledScene], SampledScene]]] = {
    "mirror": mirrored, "reverse": reversed_, "path": path_reversed}


def changes_of(drawn: SampledScene, names: Sequence[str]) -> list[str]:
    """Those of ``names`` that may change the answer about a scene but not the question.

    A question about a box names where it is at first, so it has none.

    Raises:
      InputError: an unknown name.
    """
    unknown = sorted(set(names) - set(CHANGES))
    if unknown:
        raise InputError("config.pairs", f"unknown changes {unknown}",
                         f"Choose among {', '.join(CHANGES)}")
    wanted = drawn.wanted
    turned = {
        "camera": (wanted != "Static", False),
        "direction": (wanted != "Stationary",) * 2,
        "distance": (wanted in ("closer", "farther"),) * 2,
        "speed": (wanted in ("up", "down"),) * 2,
    }.get(drawn.kind, (False, False))
    sided = any(word in wanted for word in ("Left", "Right", "CW"))  # Counter-clockwise too.
    works = {"reverse": turned[0], "path": turned[1],
             "mirror": sided and drawn.kind in ("camera", "direction")}
    return [name for name in names if works[name]]


def _mirrored_move(move: str) -> str:
    return OPPOSITE_MOVE[move] if move.split()[0] in ("Pan", "Truck", "Roll") else move


def _moved(drawn: SampledScene, change: Callable[[str], str]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(change(move) for move in span) for span in drawn.moves)
