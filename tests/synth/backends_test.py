"""The tables of pose and mask backends: one from outside goes the whole way by its line."""

import functools

import numpy as np
import pytest

from fourd4d.core.errors import InputError
from fourd4d.synth import annotate
from fourd4d.synth.camera.pose_backends import (
    POSE_BACKENDS,
    PoseBackendEntry,
    pose_backend_finder,
)
from fourd4d.synth.camera.pose_backends.base import CameraPath
from fourd4d.synth.objects.mask_backends import (
    MASK_BACKENDS,
    MaskBackendEntry,
    MaskSpec,
    mask_backend_finder,
)
from fourd4d.synth.objects.mask_backends.base import MaskBackend, ObjectMask
from tests.helpers.videos import FPS, HEIGHT, SPEC, WIDTH, ball, moves, noisy, photo, view, write

SPEED = 30  # Pixels a second.


def dolly(frames, times, motion):
    """A camera that moves ahead, whatever the pictures show."""
    poses = np.tile(np.eye(4), (len(times), 1, 1))
    poses[:, 2, 3] = 0.3 * (times - times[0])
    return CameraPath(poses, np.ones(len(times)), "metric", "dolly")


def discs(request, size):
    """A disc of ``size`` where the ball is."""
    scale = request.frames.shape[2] / WIDTH
    rows, columns = np.mgrid[:request.frames.shape[1], :request.frames.shape[2]] / scale
    return [ObjectMask(np.stack([(columns - 20 - SPEED * t) ** 2 + (rows - 60) ** 2 <= size**2
                                 for t in request.times]), "toy ball")]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    scene = view(photo(4))
    frames = [ball(scene, 20 + SPEED * i / FPS, 60) for i in range(24)]
    return write(tmp_path_factory.mktemp("film") / "ball.mp4", noisy(frames))


def clip_of(film, poses, masks):
    (clip,) = annotate.iter_clips_with_backends(
        film, "ball", SPEC, pose_backend_finder(*poses), mask_backend_finder(masks))
    return clip


def test_backends_from_outside_need_their_function_and_a_line(film, monkeypatch):
    monkeypatch.setitem(POSE_BACKENDS, "dolly", PoseBackendEntry(dolly))
    entry = MaskBackendEntry(lambda spec: lambda video: MaskBackend(
        "discs", functools.partial(discs, size=float(spec.model))), needs="model")
    monkeypatch.setitem(MASK_BACKENDS, "discs", entry)
    with pytest.raises(InputError, match=r"masks.model"):
        MaskSpec("discs")
    clip = clip_of(film, ("dolly",), MaskSpec("discs", model="12"))
    assert clip.provenance["camera"] == "dolly" and clip.provenance["objects"] == "discs"
    assert moves(clip) == [("Dolly In",)] and clip.provenance["scale"] == "metric"
    track = clip.dynamic
    assert track is not None and track.name == "toy ball" and track.source == "discs"
    middle = (track.boxes[:, :2] + track.boxes[:, 2:]) / 2 * (WIDTH, HEIGHT)
    np.testing.assert_allclose(middle[:, 0], 20 + SPEED * clip.timestamps, atol=1)
    np.testing.assert_allclose(middle[:, 1], 60, atol=1)


def test_a_pose_backend_from_outside_may_read_files(tmp_path, monkeypatch):
    def find(root, video):
        if not (root / f"{video}.txt").is_file():
            raise InputError(root, f"no poses of {video!r}")
        return dolly

    monkeypatch.setitem(POSE_BACKENDS, "text", PoseBackendEntry(find=find))
    (tmp_path / "ball.txt").touch()
    finder = pose_backend_finder("text", tmp_path)
    assert finder("ball") is dolly
    with pytest.raises(InputError, match="no poses of 'other'"):
        finder("other")
    with pytest.raises(InputError, match="poses_root"):
        pose_backend_finder("text", tmp_path / "none")


def test_without_a_line_there_is_no_such_backend():
    with pytest.raises(InputError, match="unknown value 'dolly'"):
        pose_backend_finder("dolly")
    with pytest.raises(InputError, match="unknown value 'discs'"):
        MaskSpec("discs")
