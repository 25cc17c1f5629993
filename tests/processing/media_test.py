"""Images and videos from files: true times, orientation, colours, and bad files."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest

from fourd4d.core.errors import InputError
from fourd4d.processing import video as video_module
from fourd4d.processing.media import Image, Video, decode_image, read_image
from fourd4d.processing.video import pick_frames, read_video

SIZE = (48, 64)


def grey(level: int, size=SIZE) -> np.ndarray:
    return np.full((*size, 3), level, np.uint8)


def level_of(frame: np.ndarray) -> int:
    return round(float(frame.mean()))


def write_video(path: Path, frames: Sequence[np.ndarray], times: Sequence[float] | None = None,
                fps: int = 10, codec: str = "libx264", pixels: str = "yuv420p", gop: int = 5,
                rotation: int = 0, options: dict | None = None, setup=None, container=None) -> Path:
    """Encodes frames at given times (milliseconds' precision); default: a uniform rate."""
    with av.open(str(path), "w", options=container or {}) as out:
        stream = out.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        stream.codec_context.gop_size = gop
        stream.codec_context.time_base = Fraction(1, 1000)
        if setup:
            setup(stream)
        if rotation:
            stream.set_display_rotation(rotation)
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = round(1000 * (times[i] if times is not None else i / fps))
            picture.time_base = Fraction(1, 1000)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def ramp(tmp_path_factory) -> Path:
    """4 s at 10 a second; the level of frame i is 40 + 4 i."""
    path = tmp_path_factory.mktemp("video") / "ramp.mp4"
    return write_video(path, [grey(40 + 4 * i) for i in range(40)])


def test_frames_carry_their_true_times(ramp):
    video = read_video(ramp, fps=2.0, max_frames=50)
    np.testing.assert_allclose(video.timestamps, np.arange(8) / 2, atol=1e-3)
    levels = [level_of(f) for f in video.frames]
    np.testing.assert_allclose(levels, 40 + 4 * np.arange(0, 40, 5), atol=3)


def test_all_frames_and_a_limit_over_the_whole_duration(ramp):
    assert len(read_video(ramp, fps=None, max_frames=None).frames) == 40
    video = read_video(ramp, fps=10.0, max_frames=4)
    np.testing.assert_allclose(video.timestamps, [0, 1.3, 2.6, 3.9], atol=1e-3)


def test_window(ramp):
    video = read_video(ramp, fps=5.0, start=1.0, end=2.0)
    np.testing.assert_allclose(video.timestamps, 1 + np.arange(6) / 5, atol=1e-3)
    with pytest.raises(InputError, match="no frame between"):
        read_video(ramp, start=9.0)


@pytest.mark.parametrize("gop", [1, 3, 12, 250])
def test_the_same_frames_whatever_the_keyframes(tmp_path, gop):
    frames = [grey(40 + 4 * i) for i in range(40)]
    path = write_video(tmp_path / "v.mkv", frames, gop=gop, options={"bf": "2"})
    video = read_video(path, fps=1.7, max_frames=6)
    picks = pick_frames(np.arange(40) / 10, 1.7, 6)
    np.testing.assert_allclose(video.timestamps, np.array(picks) / 10, atol=2e-3)
    levels = [level_of(f) for f in video.frames]
    np.testing.assert_allclose(levels, 40 + 4 * np.array(picks), atol=3)


def test_only_what_is_wanted_is_decoded(tmp_path, monkeypatch):
    """Four frames of 240, a keyframe every ten: at most ten are decoded for each."""
    path = write_video(tmp_path / "v.mp4", [grey(90)] * 240, gop=10)
    decoded = []

    def count(frames):
        for frame in frames:
            decoded.append(frame.pts)
            yield frame.pts, frame

    monkeypatch.setattr(video_module, "_timed", count)
    assert len(read_video(path, fps=None, max_frames=4).frames) == 4
    assert len(decoded) <= 40


def test_variable_frame_rate(tmp_path):
    times = np.array([0, 0.033, 0.066, 0.5, 0.51, 1.4, 2.0, 2.04, 3.0])
    path = write_video(tmp_path / "v.mp4", [grey(40 + 20 * i) for i in range(9)], times)
    video = read_video(path, fps=1.0)
    np.testing.assert_allclose(video.timestamps, [0, 1.4, 2.0, 3.0], atol=2e-3)
    np.testing.assert_allclose([level_of(f) for f in video.frames], [40, 140, 160, 200], atol=3)
    every = read_video(path, fps=None)
    np.testing.assert_allclose(every.timestamps, times, atol=2e-3)


def test_times_count_from_the_first_frame(tmp_path):
    path = write_video(tmp_path / "v.mkv", [grey(90)] * 6, times=5 + np.arange(6) / 2)
    np.testing.assert_allclose(read_video(path).timestamps, [0, 1, 2], atol=2e-3)
    window = read_video(path, start=1.0, end=2.0)
    np.testing.assert_allclose(window.timestamps, [1, 2], atol=2e-3)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotated_phone_video_is_upright(tmp_path, rotation):
    upright = grey(30)
    upright[:16, :16] = (250, 30, 30)  # Red, top left.
    stored = np.ascontiguousarray(np.rot90(upright, -rotation // 90))
    path = write_video(tmp_path / "v.mp4", [stored] * 4, rotation=rotation)
    frame = read_video(path).frames[0]
    assert frame.shape == upright.shape
    assert np.abs(frame[4:12, 4:12].astype(int) - (250, 30, 30)).max() < 20
    assert level_of(frame[-12:, -12:]) == pytest.approx(30, abs=3)


def test_portrait_keeps_its_shape(tmp_path):
    path = write_video(tmp_path / "v.mp4", [grey(80, (64, 36))] * 3)
    assert read_video(path, fps=None).frames.shape == (3, 64, 36, 3)


def test_frames_can_be_resized_as_they_are_decoded(ramp):
    video = read_video(ramp, max_frames=3, frame_size=lambda h, w: (h // 2, w // 2))
    assert video.frames.shape == (3, 24, 32, 3)


@pytest.mark.parametrize("space, size", [(1, (48, 64)), (5, (48, 64)), (None, (48, 64)),
                                         (None, (720, 64))])
def test_colours_survive_every_matrix(tmp_path, space, size):
    """Red, green and blue come back, be the YUV matrix BT.709, BT.601 or unnamed."""
    colours = [(200, 40, 40), (40, 200, 40), (40, 40, 200)]
    path = tmp_path / "v.mkv"
    matrix = space or (1 if size[0] >= 720 else 5)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10, options={"qp": "4"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        if space:
            stream.codec_context.colorspace = space
            stream.codec_context.color_range = 1
        for i, colour in enumerate(colours):
            rgb = np.broadcast_to(np.array(colour, np.uint8), (*size, 3)).copy()
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=matrix)
            if not space:
                picture.colorspace = 2
            picture.pts, picture.time_base = i, Fraction(1, 10)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    frames = read_video(path, fps=None).frames
    for frame, colour in zip(frames, colours, strict=True):
        assert np.abs(frame.mean((0, 1)) - colour).max() < 6, (frame.mean((0, 1)), colour)


def _pq(nits: float) -> float:
    y = (nits / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


@pytest.mark.parametrize("transfer, codes", [
    (16, [_pq(0.0), _pq(20), _pq(203), _pq(1000)]), (18, [0.0, 0.38, 0.75, 1.0])])
def test_high_dynamic_range_is_mapped(tmp_path, transfer, codes):
    """10-bit PQ and HLG: black stays black, diffuse white is near white, highlights above it."""
    path = tmp_path / "hdr.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx265", rate=10,
                                options={"crf": "4", "x265-params": "log-level=none"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p10le"
        context = stream.codec_context
        context.colorspace, context.color_trc, context.color_primaries = 9, transfer, 9
        context.color_range = 1
        for i, code in enumerate(codes):
            planes = np.full((96, 64), 512, np.uint16)
            planes[:64] = round(64 + code * 876)
            picture = av.VideoFrame.from_ndarray(planes, format="yuv420p10le")
            picture.colorspace, picture.color_trc, picture.color_range = 9, transfer, 1
            picture.color_primaries = 9
            picture.pts, picture.time_base = i, Fraction(1, 10)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    levels = [level_of(f) for f in read_video(path, fps=None).frames]
    assert levels[0] <= 2
    assert 70 <= levels[1] <= 120
    assert 235 <= levels[2] <= 250
    assert levels[2] < levels[3] <= 255


def test_ten_bit_without_hdr(tmp_path):
    path = write_video(tmp_path / "v.mkv", [grey(100)] * 3, codec="libx265", pixels="yuv420p10le",
                       options={"x265-params": "log-level=none"})
    assert level_of(read_video(path).frames[0]) == pytest.approx(100, abs=2)


def test_a_single_frame_is_a_video(tmp_path):
    path = write_video(tmp_path / "v.mp4", [grey(120)])
    video = read_video(path)
    assert video.frames.shape[0] == 1 and video.timestamps.tolist() == [0.0]


def test_grey_frames_are_fine(tmp_path):
    path = write_video(tmp_path / "v.mp4", [grey(128)] * 20)
    assert {level_of(f) for f in read_video(path).frames} <= {127, 128, 129}


def test_repeated_frames_that_an_avi_does_not_store_are_no_loss(tmp_path):
    times = [0.0, 0.1, 0.2, 0.6, 0.7, 1.2]
    path = write_video(tmp_path / "v.avi", [grey(40 + 30 * i) for i in range(6)], times, fps=10,
                       codec="mjpeg", pixels="yuvj420p",
                       setup=lambda s: setattr(s.codec_context, "time_base", Fraction(1, 10)))
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 13
    video = read_video(path, fps=None)
    np.testing.assert_allclose(video.timestamps, times, atol=1e-3)
    assert [level_of(f) for f in video.frames] == pytest.approx([40 + 30 * i for i in range(6)],
                                                                abs=3)


def _truncated(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (*SIZE, 3), np.uint8) for _ in range(40)]
    path = write_video(tmp_path / "v.mp4", frames)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def _truncated_after_index(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (*SIZE, 3), np.uint8) for _ in range(10)]
    path = write_video(tmp_path / "v.mp4", frames, container={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def _truncated_matroska(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (*SIZE, 3), np.uint8) for _ in range(40)]
    path = write_video(tmp_path / "v.mkv", frames)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def _text(tmp_path) -> Path:
    path = tmp_path / "v.mp4"
    path.write_text("This is no video.\n" * 50)
    return path


def _empty(tmp_path) -> Path:
    path = tmp_path / "v.mp4"
    path.write_bytes(b"")
    return path


def _missing(tmp_path) -> Path:
    return tmp_path / "nothing.mp4"


def _audio(tmp_path) -> Path:
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate, frame.pts = 16000, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def _no_frames(tmp_path) -> Path:
    path = tmp_path / "v.avi"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        out.start_encoding()
    return path


@pytest.mark.parametrize("make, message", [
    (_truncated, "not a whole video"), (_truncated_after_index, "truncated"),
    (_truncated_matroska, "truncated"), (_text, "not a whole video"), (_empty, "empty"),
    (_missing, "no such file"), (_audio, "no video stream"), (_no_frames, "no frame"),
])
def test_bad_files_say_what_is_wrong(tmp_path, make, message):
    path = make(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        read_video(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("arguments", [{"fps": 0.0}, {"fps": -1.0}, {"max_frames": 0}])
def test_bad_arguments(ramp, arguments):
    with pytest.raises(InputError, match="positive"):
        read_video(ramp, **arguments)


def test_picks_are_nearest_and_unique():
    times = np.array([0, 0.4, 1.1, 1.9, 2.0, 5.0])
    assert pick_frames(times, 1.0, None) == [0, 2, 4, 5]
    assert pick_frames(times, 100.0, None) == [0, 1, 2, 3, 4, 5]
    assert pick_frames(times, None, 3) == [0, 4, 5]
    assert pick_frames(times, None, 1) == [0]
    assert pick_frames(times[:1], 1.0, 50) == [0]


@pytest.mark.slow
def test_two_hours_in_flat_memory(tmp_path):
    """Reading 16 frames of a two-hour file costs no more memory than reading them of a minute."""
    script = """
import resource, sys
from fourd4d.processing.video import read_video
video = read_video(sys.argv[1], fps=1.0, max_frames=16)
print(len(video.frames), video.timestamps[-1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = {}
    for seconds in (60, 7200):
        path = tmp_path / f"{seconds}.mp4"
        write_video(path, [grey(60)] * (seconds * 5), fps=5, codec="mpeg4", gop=50)
        done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True,
                              text=True, check=True)
        count, last, peak = done.stdout.split()
        assert int(count) == 16 and float(last) == pytest.approx(seconds, abs=1)
        peaks[seconds] = int(peak) / 1024
    assert peaks[7200] - peaks[60] < 60, peaks


def test_video_checks_itself():
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    for bad, times in [(frames, [0, 1]), (frames, [0, 2, 1]), (frames, [0, 1, np.nan]),
                       (frames[..., 0], [0, 1, 2]), (frames.astype(np.float32), [0, 1, 2]),
                       (frames[:0], [])]:
        with pytest.raises(InputError):
            Video(bad, np.asarray(times, np.float64))
    with pytest.raises(InputError, match="uint8"):
        Image(frames[0].astype(np.int64))


def test_images_are_upright_rgb(tmp_path):
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:5, :5] = 255
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # Turn clockwise to see it upright.
    path = tmp_path / "i.png"
    PIL.Image.fromarray(np.ascontiguousarray(np.rot90(pixels))).save(path, exif=exif)
    np.testing.assert_array_equal(read_image(path).pixels, pixels)
    PIL.Image.fromarray(pixels[..., 0]).save(path)
    assert read_image(path).pixels.shape == (20, 30, 3)
    PIL.Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(path)
    np.testing.assert_array_equal(read_image(path).pixels, pixels)


def test_bad_images(tmp_path):
    path = tmp_path / "i.png"
    with pytest.raises(InputError, match="no such file"):
        read_image(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="empty"):
        read_image(path)
    stream = io.BytesIO()
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(
        stream, "PNG")
    path.write_bytes(stream.getvalue()[:2000])
    with pytest.raises(InputError, match="not a readable image"):
        read_image(path)
    with pytest.raises(InputError, match="row 3"):
        decode_image(b"nothing", "row 3")
