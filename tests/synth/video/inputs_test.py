"""Awkward input, all the way through: HDR, turned phones, long files, clashing masks and names."""

import functools
import json
import subprocess
import sys
import weakref
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from helpers.videos import FPS, SPEC, ball, moves, noisy, photo, truth, view, write

from fourd4d.synth import annotate
from fourd4d.synth.annotate import AnnotateSpec, iter_clips
from fourd4d.synth.camera import pose_backends
from fourd4d.synth.dataset import build
from fourd4d.synth.dataset.build import DatasetSpec, VideoJob
from fourd4d.synth.objects import mask_backends
from fourd4d.synth.objects.mask_backends import MaskSpec
from fourd4d.synth.questions.ask import QuestionSpec
from fourd4d.synth.questions.types import QUESTION_TYPES
from fourd4d.synth.video.discover import find_videos, name_of
from fourd4d.synth.video.spans import iter_spans

ROOT = Path(__file__).parents[3]


def panned(seed, count=26, speed=18):
    return noisy([view(photo(seed), x=speed * i / FPS) for i in range(count)])


@pytest.mark.parametrize("transfer", [16, 18])
def test_high_dynamic_range(tmp_path, transfer):
    """10-bit PQ and HLG in BT.2020: the camera is told, and grey stays grey."""
    path = tmp_path / "hdr.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx265", rate=FPS, options={"x265-params": "log-level=none"})
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p10le"
        context = stream.codec_context
        context.colorspace, context.color_trc, context.color_primaries = 9, transfer, 9
        for i in range(26):
            scene = view(photo(12), x=18 * i / FPS).astype(np.float32) / 255
            codes = (scene * 0.55 * 65535).astype(np.uint16)  # Of the signal: below the highlights.
            frame = av.VideoFrame.from_ndarray(codes, format="rgb48le").reformat(
                format="yuv420p10le", dst_colorspace=9)
            frame.colorspace, frame.color_trc, frame.pts = 9, transfer, i
            frame.time_base = Fraction(1, FPS)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    clip, = iter_clips(path, SPEC)
    assert moves(clip) == [("Pan Right",)] and clip.frames.dtype == np.uint8
    assert 40 < clip.frames.mean() < 220


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_a_turned_phone(tmp_path, rotation):
    """The display matrix is applied before anything is measured: pan right stays pan right."""
    path = tmp_path / "phone.mp4"
    frames = panned(11)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=FPS, options={"crf": "18"})
        stored = [np.ascontiguousarray(np.rot90(f, -rotation // 90)) for f in frames]
        stream.height, stream.width = stored[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.set_display_rotation(rotation)
        for pixels in stored:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode())
    clip, = iter_clips(path, SPEC)
    assert clip.frames.shape[1:3] == (96, 128)
    assert moves(clip) == [("Pan Right",)]
    assert np.abs(clip.frames[0].astype(int) - frames[0]).mean() < 8


def crossing(path, seed=4):
    where = lambda t: (20 + 30 * t, 60 - 3 * t)  # Plainly to the right.
    scene = view(photo(seed))

    def drawn(x, y):  # With spots, so that its picture can be followed.
        out = ball(scene, x, y)
        for right, down in ((5, 4), (-6, 1), (1, -7)):
            out = ball(out, x + right, y + down, 3, (250, 220, 60))
        return out

    return write(path, noisy([drawn(*where(i / FPS)) for i in range(36)])), where


def given(folder, name, where, scale=1, columns=128):
    times = np.arange(36) / FPS
    masks = np.stack([cv2.resize(truth(*where(t)).astype(np.uint8), None, fx=scale, fy=scale,
                                 interpolation=cv2.INTER_NEAREST) for t in times])
    np.savez(folder / f"{name}.npz", masks=masks[:, :, : columns * scale], timestamps=times,
             names=["beach ball"])


def run(root, folder, masks):
    mask_of = mask_backends.mask_backend_finder(masks)
    pose_of = pose_backends.pose_backend_finder("features")
    works = [VideoJob(n,
                      functools.partial(annotate.iter_clips_with_backends, p, n, SPEC, pose_of,
                                        mask_of))
             for n, p in find_videos(folder).items()]
    recipe = DatasetSpec(tuple(QUESTION_TYPES), QuestionSpec(), 0)
    return build.build_dataset(root, works, None, recipe)


def test_given_masks_of_another_size_are_fitted_and_of_another_shape_told(tmp_path):
    for folder in ("films", "masks"):
        (tmp_path / folder).mkdir()
    _, where = crossing(tmp_path / "films" / "large.mp4")
    crossing(tmp_path / "films" / "narrow.mp4")
    crossing(tmp_path / "films" / "without.mp4")
    given(tmp_path / "masks", "large", where, scale=3)
    given(tmp_path / "masks", "narrow", where, columns=96)
    entries = run(tmp_path / "out", tmp_path / "films",
                  MaskSpec("given", root=str(tmp_path / "masks")))
    large = entries["large"]
    assert large.status == "done"
    sample = next(s for s in large.samples if "beach ball" in s["question"])
    assert sample["provenance"]["objects"] == "given"
    drawn = cv2.imread(str(tmp_path / "out" / sample["masks"][0]), 0) > 0
    real = truth(*where(sample["overlay_timestamps"][0]))
    assert (drawn & real).sum() / (drawn | real).sum() > 0.9
    assert entries["narrow"].status == "failed"
    assert "masks of 96x96, the video is 128x96" in entries["narrow"].reason
    assert "no masks of 'without' here" in entries["without"].reason


def test_two_clips_of_one_name_stay_apart(tmp_path):
    for k, folder in enumerate(("a", "b")):
        (tmp_path / "films" / folder).mkdir(parents=True)
        crossing(tmp_path / "films" / folder / "clip.mp4", seed=4 + k)
    with av.open(str(tmp_path / "films" / "sound.mp4"), "w") as out:
        stream = out.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp",
                                           layout="mono")
        sound.sample_rate = 16000
        out.mux([*stream.encode(sound), *stream.encode(None)])
    entries = run(tmp_path / "out", tmp_path / "films", MaskSpec())
    one, two = entries[name_of("a/clip.mp4")], entries[name_of("b/clip.mp4")]
    assert one.status == two.status == "done" and entries["sound"].status == "failed"
    assert "no video stream" in entries["sound"].reason
    paths = [{p for s in e.samples for p in s["frames"]} for e in (one, two)]
    assert not paths[0] & paths[1]
    pixels = [(tmp_path / "out" / min(p)).read_bytes() for p in paths]
    assert pixels[0] != pixels[1]


def test_only_one_span_of_a_long_file_is_held(tmp_path):
    scene = photo(9)
    path = write(tmp_path / "long.mp4", [view(scene, x=0.3 * i) for i in range(96)])
    spec = AnnotateSpec(analysis_side=160, fps=4.0, seconds=1.0)
    before, count = None, 0
    for span in iter_spans(path, spec.spans):
        assert before is None or before() is None
        before, count = weakref.ref(span.small), count + 1
        del span
    assert count == 8


LONG = """
import json, resource, sys
from fourd4d.synth.annotate import AnnotateSpec, iter_clips
spec = AnnotateSpec(fps=0.5, analysis_fps=1.0, analysis_side=64, seconds=60.0, max_clips=0)
ends = [clip.timestamps[-1] for clip in iter_clips(sys.argv[1], spec)]
print(json.dumps([len(ends), ends[-1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""

@pytest.mark.slow
def test_two_hours_in_flat_memory(tmp_path):
    """Digesting a two-hour file takes no more memory than digesting four minutes of it."""
    scene = view(photo(9))
    peaks = {}
    for seconds in (240, 7200):
        path = tmp_path / f"{seconds}.mp4"
        with av.open(str(path), "w") as out:
            stream = out.add_stream("libx264", rate=1, options={"crf": "30", "preset": "ultrafast"})
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            for i in range(seconds):
                x = 20 + 90 * abs((i / 40) % 2 - 1)
                small = cv2.resize(ball(scene, x, 50), (64, 48), interpolation=cv2.INTER_AREA)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(small, format="rgb24")))
            out.mux(stream.encode())
        done = subprocess.run([sys.executable, "-c", LONG, str(path)], capture_output=True,
                              text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        clips, end, peaks[seconds] = json.loads(done.stdout)
        assert clips >= 0.8 * seconds / 60 and end > seconds - 120
    print(peaks)
    assert peaks[7200] < peaks[240] + 40, peaks
