"""Structure from motion of one span, by pycolmap in a process of its own.

The points that were tracked, without those that move by themselves, are colmap's features and
their tracks its matches: on short spans of small or noisy frames they are steadier than SIFT. The
focal length is refined; where it runs away, the mapping is done again with the guess held fast. A
model that fits its points badly is none.

Native code that crashes, or never ends, must not take a run of thousands of videos with it, and
its log is not ours: ``reconstruct`` starts ``python -m MODULE FOLDER`` and reads what
that leaves.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from fourd4d.core.errors import InputError
from fourd4d.core.terminal import say
from fourd4d.synth.camera.motion import CameraMotion
from fourd4d.synth.camera.point_tracks import PointTracks
from fourd4d.synth.camera.pose_backends.base import CameraPath, Frames, interpolate
from fourd4d.synth.camera.pose_backends.features import from_features


@dataclasses.dataclass(frozen=True)
class ColmapSpec:
    """Numbers of the reconstruction.

    Attributes:
      frames: most frames of a span that are reconstructed.
      angle: least angle between rays of the first pair, degrees.
      points: least points that tie a picture to the model.
      share: least share of the frames that must be registered.
      widest, narrowest: horizontal fields of view outside of which a focal length is not believed,
        degrees.
      error: largest mean reprojection error, pixels of a picture 320 wide.
      seconds: longest time for a span.
    """

    frames: int = 60
    angle: float = 3.0
    points: int = 12
    share: float = 0.8
    widest: float = 100.0
    narrowest: float = 25.0
    error: float = 0.6
    seconds: float = 600.0


@dataclasses.dataclass(frozen=True)
class Model:
    """What came out.

    Attributes:
      frames: numbers of the registered frames, rising.
      poses: camera-to-world, any unit.
      depth: median distance of the points ahead of each camera, same unit.
      focal: pixels.
    """

    frames: Int[np.ndarray, "N"]
    poses: Float[np.ndarray, "N 4 4"]
    depth: Float[np.ndarray, "N"]
    focal: float


def reconstruct(tracks: PointTracks, size: tuple[int, int], focal: float,
                spec: ColmapSpec | None = None) -> Model | None:
    """Poses of a span; None where too few frames can be registered, or the process fails.

    Args:
      tracks: of static points.
      size: height and width of the pictures.
      focal: a first guess, pixels.
    """
    spec = spec or ColmapSpec()
    count = tracks.xy.shape[1]
    picked = np.unique(np.linspace(0, count - 1, min(count, spec.frames)).round().astype(int))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "tracks.npz", xy=tracks.xy[:, picked])
        (folder / "settings.json").write_text(json.dumps(
            {**dataclasses.asdict(spec), "focal": focal, "height": size[0], "width": size[1]}))
        status = 0
        for _ in range(2):
            try:
                status = subprocess.run(
                    [sys.executable, "-m", __name__, str(folder)], env=_environment(),
                    capture_output=True, timeout=spec.seconds).returncode
            except subprocess.TimeoutExpired:
                return None
            if status >= 0:
                break
            say(f"COLMAP's process was ended by signal {-status}, as for want of memory",
                stderr=True)
            (folder / "database.db").unlink(missing_ok=True)
        if status or not (folder / "model.npz").is_file():
            return None
        with np.load(folder / "model.npz", allow_pickle=False) as data:
            return Model(picked[data["frames"]], data["poses"], data["depth"],
                         float(data["focal"]))


def _environment() -> dict[str, str]:
    """This process's, with the package where it was found."""
    paths = [str(Path(__file__).parents[4]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def main(folder: Path) -> None:
    """The process: reads the folder that ``reconstruct`` made, writes ``model.npz`` into it."""
    import pycolmap

    settings = json.loads((folder / "settings.json").read_text())
    with np.load(folder / "tracks.npz", allow_pickle=False) as data:
        xy = data["xy"]
    _fill(pycolmap, folder, xy, settings)
    limits = [settings["width"] / 2 / np.tan(np.radians(settings[name]) / 2)
              for name in ("widest", "narrowest")]
    for refine in (True, False):
        models = pycolmap.incremental_mapping(
            folder / "database.db", folder, folder,
            options=_options(pycolmap, settings, refine))
        best = max(models.values(), key=lambda m: m.num_reg_images(), default=None)
        if best is None or best.num_reg_images() < settings["share"] * xy.shape[1]:
            continue
        focal = float(next(iter(best.cameras.values())).params[0])
        error = best.compute_mean_reprojection_error() * 320 / settings["width"]
        if error <= settings["error"] and (not refine or limits[0] <= focal <= limits[1]):
            _write(best, folder / "model.npz", focal)
            return


def _fill(pycolmap: Any, folder: Path, xy: np.ndarray, settings: dict[str, Any]) -> None:
    """The database: one camera, a picture a frame, the points as features, tracks as matches."""
    database = pycolmap.Database.open(folder / "database.db")
    middle = [settings["width"] / 2, settings["height"] / 2]
    camera = pycolmap.Camera(model="SIMPLE_PINHOLE", width=settings["width"],
                             height=settings["height"], params=[settings["focal"], *middle])
    camera.has_prior_focal_length = True
    camera.camera_id = database.write_camera(camera)
    rig = pycolmap.Rig()
    rig.add_ref_sensor(camera.sensor_id)
    rig.rig_id = database.write_rig(rig)
    seen, numbers = [], []
    for t in range(xy.shape[1]):
        seen.append(np.flatnonzero(np.isfinite(xy[:, t, 0])))
        image = pycolmap.Image(name=f"{t:05d}", camera_id=camera.camera_id)
        image.image_id = database.write_image(image)
        numbers.append(image.image_id)
        frame = pycolmap.Frame()
        frame.rig_id = rig.rig_id
        frame.add_data_id(image.data_id)
        database.write_frame(frame)
        # Colmap's pixels have their middle at one half.
        database.write_keypoints(image.image_id, (xy[seen[t], t] + 0.5).astype(np.float32))
    pairs = []
    for i in range(len(seen)):
        for j in range(i + 1, len(seen)):
            both, a, b = np.intersect1d(seen[i], seen[j], return_indices=True)
            if len(both) >= settings["points"]:
                database.write_matches(numbers[i], numbers[j],
                                       np.stack([a, b], 1).astype(np.uint32))
                pairs.append(f"{i:05d} {j:05d}")
    database.close()
    (folder / "pairs.txt").write_text("\n".join(pairs))
    pycolmap.set_random_seed(0)
    pycolmap.verify_matches(folder / "database.db", folder / "pairs.txt")


def _options(pycolmap: Any, settings: dict[str, Any], refine: bool) -> Any:
    """Options for short baselines: colmap's own ask for wide ones."""
    options = pycolmap.IncrementalPipelineOptions()
    options.random_seed, options.extract_colors = 0, False
    options.min_num_matches, options.ba_refine_focal_length = settings["points"], refine
    mapper = options.mapper
    mapper.init_min_tri_angle = settings["angle"]
    mapper.init_min_num_inliers = 3 * settings["points"]
    mapper.init_max_forward_motion = 1.0
    mapper.abs_pose_min_num_inliers = settings["points"]
    mapper.abs_pose_refine_focal_length = refine
    mapper.filter_min_tri_angle = options.triangulation.min_angle = 0.1 * settings["angle"]
    mapper.ba_local_min_tri_angle = 0.3 * settings["angle"]
    return options


def _write(model: Any, path: Path, focal: float) -> None:
    places = np.array([p.xyz for p in model.points3D.values()]).reshape(-1, 3)
    frames, poses, depths = [], [], []
    for image in sorted(model.images.values(), key=lambda i: i.name):
        if not image.has_pose:
            continue
        matrix = np.eye(4)
        matrix[:3] = image.cam_from_world().matrix()
        ahead = places @ matrix[2, :3] + matrix[2, 3]
        frames.append(int(image.name))
        poses.append(np.linalg.inv(matrix))
        depths.append(float(np.median(ahead[ahead > 0])) if (ahead > 0).any() else 1.0)
    np.savez(path, frames=np.array(frames), poses=np.array(poses), depth=np.array(depths),
             focal=focal)


def from_colmap(frames: Frames, times: np.ndarray, motion: CameraMotion) -> CameraPath:
    """Structure from motion (pycolmap) where features say that the camera travels.

    Elsewhere, and where the mapping registers less than four fifths of the frames, the features'
    own poses stand; ``source`` says so. What moves by itself is left out, see ``colmap``. Raises
    InputError if pycolmap is not installed.
    """
    if importlib.util.find_spec("pycolmap") is None:
        raise InputError("pose source 'colmap'", "pycolmap is not installed",
                         "pip install 'fourd4d[synth]'")
    if motion.kind != "moving":
        return dataclasses.replace(from_features(frames, times, motion),
                                   source="features (no travel for colmap)")
    static = PointTracks(motion.tracks.xy[motion.static], motion.tracks.first[motion.static])
    model = reconstruct(static, motion.size, motion.focal)
    if model is None:
        return dataclasses.replace(from_features(frames, times, motion),
                                   source="features (colmap failed)")
    at = times[model.frames]
    return CameraPath(interpolate(model.poses, at, times), np.interp(times, at, model.depth),
                      "relative", "colmap")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
