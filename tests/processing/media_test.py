"""Images and videos from files: true times, orientation, colours, and bad files."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image
import PIL.ImageFile
import PIL.PngImagePlugin
import PIL.TiffImagePlugin
import pytest

from fourd4d.core.errors import InputError
from fourd4d.processing import media
from fourd4d.processing import video as video_module
from fourd4d.processing.color import to_rgb
from fourd4d.processing.media import (
    Image,
    TooLargeError,
    Video,
    decode_image,
    image_size,
    read_image,
)
from fourd4d.processing.video import iter_video, pick_frames, read_video

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
    with pytest.raises(InputError, match="no frame between 9.0 s and its end; it lasts 3.900 s"):
        read_video(ramp, start=9.0)


@pytest.mark.parametrize("text, told", [
    ("ffconcat version 1.0\nfile 'ramp.mp4'\n", "list of other files"),
    ("#EXTM3U\n#EXTINF:1,\nramp.mp4\n", "list of other files"),
    ("<?xml version='1.0'?>\n<MPD xmlns='urn:mpeg:dash:schema:mpd:2011'/>", "list of other files"),
    ("v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n", "list of other files"),
    ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer.*git lfs pull"),
    ("<!DOCTYPE html><html>403</html>", "web page"), ("words\n" * 99, "not a whole video"),
])
def test_what_is_not_a_video_is_called_so_and_opens_no_other_file(ramp, text, told, tmp_path):
    (tmp_path / "ramp.mp4").write_bytes(Path(ramp).read_bytes())
    path = tmp_path / "other.mp4"
    path.write_text(text)
    with pytest.raises(InputError, match=told):
        read_video(path)


@pytest.mark.parametrize("gop", [1, 3, 12, 250])
def test_the_same_frames_whatever_the_keyframes(tmp_path, gop):
    frames = [grey(40 + 4 * i) for i in range(40)]
    path = write_video(tmp_path / "v.mkv", frames, gop=gop, options={"bf": "2"})
    video = read_video(path, fps=1.7, max_frames=6)
    picks = pick_frames(np.arange(40) / 10, 1.7, 6)
    np.testing.assert_allclose(video.timestamps, np.array(picks) / 10, atol=2e-3)
    levels = [level_of(f) for f in video.frames]
    np.testing.assert_allclose(levels, 40 + 4 * np.array(picks), atol=3)


def counted(monkeypatch):
    """Times of the frames that are decoded from now on, as they come."""
    decoded = []

    def count(frames):
        for frame in frames:
            decoded.append(frame.pts)
            yield frame.pts, frame

    monkeypatch.setattr(video_module, "_timed", count)
    return decoded


def test_only_what_is_wanted_is_decoded(tmp_path, monkeypatch):
    """Four frames of 240, a keyframe every ten: at most ten are decoded for each."""
    path = write_video(tmp_path / "v.mp4", [grey(90)] * 240, gop=10)
    decoded = counted(monkeypatch)
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


def stored_with(path: Path, matrix: Sequence[float]) -> Path:
    """The file with another display matrix (a, b, c, d): column p, row q go to a p + c q and
    b p + d q."""
    data = path.read_bytes()

    def packed(a, b, c, d):
        return struct.pack(">9i", *(round(65536 * x) for x in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)

    at = data.index(packed(1, 0, 0, 1), data.index(b"tkhd"))
    out = path.with_name("turned.mp4")
    out.write_bytes(data[:at] + packed(*matrix) + data[at + 36 :])
    return out


QUARTERS = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0),
            (-1, 0, 0, 1), (0, 1, 1, 0), (1, 0, 0, -1), (0, -1, -1, 0)]


@pytest.fixture(scope="module")
def corners(tmp_path_factory) -> tuple[Path, np.ndarray]:
    picture = grey(30)
    picture[:16, :16], picture[:16, -16:] = 200, 120
    path = tmp_path_factory.mktemp("video") / "corners.mp4"
    return write_video(path, [picture] * 3), picture


def placed(picture: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """What a display matrix makes of a picture, pixel by pixel."""
    height, width = picture.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    x, y = a * columns + c * rows, b * columns + d * rows
    x, y = x - x.min(), y - y.min()
    out = np.zeros((y.max() + 1, x.max() + 1, 3), np.uint8)
    out[y, x] = picture
    return out


@pytest.mark.parametrize("matrix", QUARTERS)
def test_every_display_matrix_is_shown_as_players_do(corners, matrix):
    path, picture = corners
    stored = stored_with(path, matrix)
    expected = placed(picture, *matrix).astype(int)
    decoded = next(iter_video(stored))[1]()
    for frame in (read_video(stored).frames[0], decoded):
        assert frame.shape == expected.shape
        assert np.abs(frame.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("matrix, nearest", [
    ((2, 0, 0, -1.5), (1, 0, 0, -1)), ((-0.5, 0, 0, 0.5), (-1, 0, 0, 1)),
    ((0.95, 0.3, -0.3, 0.95), (1, 0, 0, 1)), ((0.3, 0.95, 0.95, -0.3), (0, 1, 1, 0)),
    ((0, 0, 0, 0), (1, 0, 0, 1)), ((1, 0, 0, 0), (1, 0, 0, 1)), ((0, 3, -3, 0), (0, 1, -1, 0)),
])
def test_odd_display_matrices_give_the_nearest(corners, matrix, nearest):
    path, picture = corners
    frame = read_video(stored_with(path, matrix)).frames[0]
    expected = placed(picture, *nearest).astype(int)
    assert frame.shape == expected.shape and np.abs(frame.astype(int) - expected).mean() < 3


def part(path: Path, levels: Sequence[int], start: float = 0.0, **options) -> bytes:
    """The bytes of a recording, a frame of each grey level, 10 a second."""
    options.setdefault("gop", 10)
    if path.suffix in (".mpg", ".vob"):
        options.update(codec="mpeg2video", fps=25, times=start + np.arange(len(levels)) / 25,
                       setup=lambda s: setattr(s.codec_context, "time_base", Fraction(1, 25)))
    else:
        options.setdefault("times", start + np.arange(len(levels)) / 10)
    write_video(path, [grey(n) for n in levels], **options)
    return path.read_bytes()


DARK, BRIGHT = range(30, 90, 2), range(120, 200, 2)


@pytest.mark.parametrize("suffix, starts", [
    (".ts", (0, 0)), (".ts", (0, 36000)), (".ts", (36000, 0)), (".ts", (95440, 95440)),
    (".ts", (0, 1)), (".mpg", (0, 0)), (".vob", (0, 0)),
])
def test_recordings_joined_end_to_end(tmp_path, suffix, starts):
    """All frames in order, time going on, wherever the second one's clock starts."""
    parts = [part(tmp_path / f"{i}{suffix}", levels, start)
             for i, (levels, start) in enumerate(zip((DARK, BRIGHT), starts))]
    path = tmp_path / f"joined{suffix}"
    path.write_bytes(b"".join([*parts, parts[0]]))
    levels = np.array([*DARK, *BRIGHT, *DARK])
    rate = 10 if suffix == ".ts" else 25
    video = read_video(path, fps=None, max_frames=None)
    np.testing.assert_allclose(video.timestamps, np.arange(100) / rate, atol=2e-3)
    np.testing.assert_allclose([level_of(f) for f in video.frames], levels, atol=4)
    some = read_video(path, fps=2.0, start=2.0, end=3.6)
    picks = np.round(some.timestamps * rate).astype(int)
    np.testing.assert_allclose([level_of(f) for f in some.frames], levels[picks], atol=4)
    decoded = [(time, level_of(pixels())) for time, pixels in iter_video(path)]
    np.testing.assert_allclose(decoded, np.stack([np.arange(100) / rate, levels], 1), atol=4)


@pytest.mark.parametrize("start", [1.5, 2.9, 3.0, 3.1, 5.0])
def test_a_recording_that_goes_on_where_the_first_ends(tmp_path, start):
    """Or a little before or after: no frame is lost, none is swapped."""
    path = tmp_path / "v.ts"
    path.write_bytes(part(tmp_path / "a.ts", DARK) + part(tmp_path / "b.ts", BRIGHT, start))
    levels, frames = [*DARK, *BRIGHT], read_video(path, None, None).frames
    assert [level_of(f) for f in frames] == pytest.approx(levels, abs=4)
    assert [level_of(x()) for _, x in iter_video(path)] == pytest.approx(levels, abs=4)


def test_recordings_of_one_frame(tmp_path):
    path = tmp_path / "v.ts"
    path.write_bytes(b"".join(part(tmp_path / f"{n}.ts", [n]) for n in (50, 150, 100)))
    video = read_video(path, None, None)
    assert [level_of(f) for f in video.frames] == pytest.approx([50, 150, 100], abs=3)


def test_a_second_recording_cut_at_its_start(tmp_path):
    """It is shown from its next keyframe; nothing of it is mixed into the first."""
    late = part(tmp_path / "b.ts", BRIGHT)
    path = tmp_path / "v.ts"
    path.write_bytes(part(tmp_path / "a.ts", DARK) + late[188 * (len(late) // 188 // 2) :])
    for frames in (read_video(path, None, None).frames, [x() for _, x in iter_video(path)]):
        found = [level_of(frame) for frame in frames]
        assert found[:30] == pytest.approx(list(DARK), abs=4)
        assert found[30:] == pytest.approx(list(BRIGHT)[-len(found[30:]) :], abs=4)
        assert len(found) >= 40


def test_a_recording_of_another_codec_is_not_passed_over(tmp_path):
    path = tmp_path / "v.ts"
    path.write_bytes(part(tmp_path / "a.ts", DARK) + part(tmp_path / "b.ts", BRIGHT, fps=25,
                     codec="mpeg2video", times=np.arange(40) / 25,
                     setup=lambda s: setattr(s.codec_context, "time_base", Fraction(1, 25))))
    for read in (read_video, lambda path: list(iter_video(path))):
        with pytest.raises(InputError):
            read(path)


def test_joined_avi_files(tmp_path):
    """They have one rate, that of the first."""
    def stored(name, levels, fps):
        return write_video(
            tmp_path / name, [grey(n) for n in levels], fps=fps, codec="mjpeg", pixels="yuvj420p",
            setup=lambda s: setattr(s.codec_context, "time_base", Fraction(1, fps))).read_bytes()

    path, first = tmp_path / "v.avi", stored("a.avi", DARK, 10)
    path.write_bytes(first + stored("b.avi", BRIGHT, 10))
    levels = [*DARK, *BRIGHT]
    for start in (0.0, 2.0, 3.5):
        found = [level_of(f) for f in read_video(path, None, None, start=start).frames]
        assert found == pytest.approx(levels[round(10 * start) :], abs=4)
    path.write_bytes(first + stored("c.avi", BRIGHT, 25))
    with pytest.raises(InputError, match="differ in rate or size"):
        read_video(path)


def test_joined_gif_files(tmp_path):
    path = tmp_path / "v.gif"
    path.write_bytes(b"".join(
        part(tmp_path / f"{i}.gif", levels, codec="gif", pixels="rgb8",
             setup=lambda s: setattr(s.codec_context, "time_base", Fraction(1, 100)))
        for i, levels in enumerate((DARK, BRIGHT))))
    every = read_video(path, None, None).frames
    assert len(every) == 70
    np.testing.assert_array_equal(read_video(path, None, None, start=5.0).frames, every[50:])


def test_joined_recordings_are_decoded_from_the_keyframe_alone(tmp_path, monkeypatch):
    one = part(tmp_path / "a.ts", [90] * 100)
    (tmp_path / "v.ts").write_bytes(one * 3)
    decoded = counted(monkeypatch)
    video = read_video(tmp_path / "v.ts", fps=None, max_frames=4)
    np.testing.assert_allclose(video.timestamps, [0, 10, 20, 29.9], atol=0.11)
    assert len(decoded) < 90


def test_a_pause_of_a_recording_is_not_a_join(tmp_path):
    """One frame each quarter of a minute, and a picture held while the sound goes on."""
    times = [0, 15, 30, 45, 60]
    path = tmp_path / "slow.ts"
    part(path, [40, 80, 120, 160, 200], times=times, gop=1)
    np.testing.assert_allclose(read_video(path, fps=None).timestamps, times, atol=2e-3)
    with av.open(str(tmp_path / "held.ts"), "w") as out:
        video = out.add_stream("libx264", rate=10, options={"tune": "zerolatency"})
        video.height, video.width, video.pix_fmt = *SIZE, "yuv420p"
        sound = out.add_stream("aac", rate=16000)
        for second in range(16):
            for k in range(5) if second in (0, 15) else ():
                frame = av.VideoFrame.from_ndarray(grey(90), format="rgb24")
                frame.pts, frame.time_base = 10 * second + k, Fraction(1, 10)
                out.mux(video.encode(frame))
            for k in range(16):
                piece = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                piece.rate, piece.pts = 16000, 1024 * (16 * second + k)
                out.mux(sound.encode(piece))
        out.mux(video.encode(None))
    held = read_video(tmp_path / "held.ts", fps=None).timestamps
    assert held[5] == pytest.approx(15, abs=0.01)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".flv", ".mkv"])
def test_recordings_that_the_format_cannot_join_are_refused(tmp_path, suffix):
    path = tmp_path / f"v{suffix}"
    path.write_bytes(part(tmp_path / f"a{suffix}", DARK) + part(tmp_path / f"b{suffix}", BRIGHT))
    for read in (read_video, lambda path: list(iter_video(path))):
        with pytest.raises(InputError, match="several recordings are joined"):
            read(path)


@pytest.mark.parametrize("options", [
    {"mpegts_start_pid": "0x300"}, {"mpegts_start_pid": "0x300", "mpegts_pmt_start_pid": "0x1010"}])
def test_joined_recordings_with_other_streams_are_refused(tmp_path, options):
    path = tmp_path / "v.ts"
    path.write_bytes(part(tmp_path / "a.ts", DARK)
                     + part(tmp_path / "b.ts", BRIGHT, container=options))
    with pytest.raises(InputError, match="other streams"):
        read_video(path)


@pytest.mark.parametrize("options", [
    {"bf": "2"}, {"bf": "3", "x264-params": "b-pyramid=normal"}, {"bf": "0"},
    {"bf": "3", "x264-params": "open-gop=1:bframes=3"}])
def test_an_avi_of_reordered_frames_has_the_times_shown(tmp_path, options):
    """It stores decoding times only."""
    levels = [40 + 3 * i for i in range(60)]
    path = write_video(tmp_path / "v.avi", [grey(n) for n in levels], gop=10, options=options,
                       setup=lambda s: setattr(s.codec_context, "time_base", Fraction(1, 10)))
    video = read_video(path, fps=None, max_frames=None)
    np.testing.assert_allclose(video.timestamps, np.arange(60) / 10, atol=1e-3)
    np.testing.assert_allclose([level_of(f) for f in video.frames], levels, atol=4)
    for start in (0.9, 1.0, 3.1, 5.6):
        video = read_video(path, fps=None, max_frames=None, start=start)
        first = round(10 * start)
        np.testing.assert_allclose([level_of(f) for f in video.frames], levels[first:], atol=4)
    some = read_video(path, fps=1.3)
    picks = np.round(some.timestamps * 10).astype(int)
    np.testing.assert_allclose([level_of(f) for f in some.frames], np.array(levels)[picks], atol=4)


def test_a_palette_sent_once_holds_for_every_window(tmp_path):
    path = tmp_path / "v.avi"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("rawvideo", rate=10)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "pal8"
        for k in range(30):
            picture = av.VideoFrame(SIZE[1], SIZE[0], "pal8")
            picture.planes[0].update(bytes([k]) * picture.planes[0].buffer_size)
            picture.planes[1].update(
                bytes(x for i in range(256) for x in (8 * i % 256, 128, 9, 255)))
            picture.pts, picture.time_base = k, Fraction(1, 10)
            out.mux(stream.encode(picture))
    for start in (0.0, 1.0, 2.5):
        video = read_video(path, fps=None, start=start)
        assert [f[0, 0].tolist() for f in video.frames] == [
            [9, 128, 8 * k] for k in range(round(10 * start), 30)]


@pytest.mark.parametrize("name", ["10:20:30.mp4", "http:x.mp4", "file:x.mp4", "-x.mp4", "v%03d.mp4",
                                  "a?b#c.mp4", "two\nlines.mp4", "concat:a|b.mp4", "pipe:0"])
def test_any_name_of_a_file(ramp, tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(ramp.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert len(read_video(name).frames) == len(read_video(tmp_path / name).frames) == 4


@pytest.mark.parametrize("start", [95430, 95440, 95443.7, 95450])
def test_a_transport_stream_whose_clock_overflows(tmp_path, start):
    """The clock has 33 bits: it starts again after 26.5 hours."""
    part(tmp_path / "v.ts", range(40, 240, 4), start)
    video = read_video(tmp_path / "v.ts", fps=None, max_frames=None)
    np.testing.assert_allclose(video.timestamps, np.arange(50) / 10, atol=2e-3)
    np.testing.assert_allclose([level_of(f) for f in video.frames], range(40, 240, 4), atol=4)


@pytest.mark.parametrize("tag, primaries, matrix", [
    (10, 9, 9), (12, 1, 1), (12, 9, 9), (13, 9, 9), (12, 2, 5), (3, 2, 5), (19, 2, 5), (255, 2, 5)])
def test_rare_colour_tags_are_read_as_the_nearest_matrix(tag, primaries, matrix):
    colour = (200, 40, 60)
    rgb = np.broadcast_to(np.array(colour, np.uint8), (*SIZE, 3)).copy()
    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(
        format="yuv420p", dst_colorspace=matrix)
    frame.colorspace, frame.color_primaries = tag, primaries
    assert np.abs(to_rgb(frame).mean((0, 1)) - colour).max() < 4


@pytest.mark.parametrize("limited", [True, False])
def test_ycgco_is_read(limited):
    red, green, blue = 200.0, 40.0, 60.0
    codes = np.array([(red + 2 * green + blue) / 4, (2 * green - red - blue) / 4, (red - blue) / 2])
    if limited:
        codes = codes * [219 / 255, 224 / 255, 224 / 255] + [16, 0, 0]
    planes = np.full((96, 64), round(codes[0]), np.uint8)
    planes[64:80], planes[80:] = round(128 + codes[1]), round(128 + codes[2])
    frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    frame.colorspace, frame.color_range = 8, 1 if limited else 2
    assert np.abs(to_rgb(frame).mean((0, 1)) - (red, green, blue)).max() < 3


def test_a_colour_code_that_is_not_read_is_named(tmp_path):
    path = write_video(tmp_path / "v.mkv", [grey(90)] * 3, codec="libx264",
                       options={"x264-params": "colormatrix=ICtCp"})
    with pytest.raises(InputError, match="v.mkv: its colours are coded as ICtCp"):
        read_video(path)


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


def exif(*tags: tuple[int, int, int, bytes], tail: bytes = b"") -> bytes:
    """EXIF of tags (tag, type, count, four bytes of value or the place of it), then ``tail``."""
    entries = b"".join(struct.pack("<HHI", *tag[:3]) + tag[3].ljust(4, b"\0") for tag in tags)
    return (b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + tail)


TURNED = (0x112, 3, 1, b"\6\0")


def after(*tags) -> bytes:
    """Where what follows the tags begins."""
    return struct.pack("<I", 14 + 12 * len(tags))


@pytest.mark.parametrize("tags, tail, turned", [
    pytest.param([TURNED], b"", True, id="good"),
    pytest.param([TURNED, (0x9204, 10, 1, after(1, 2))], struct.pack("<ii", -1, 0), True,
                 id="bias -1/0"),
    pytest.param([(0x10F, 5, 1, after(1, 2)), TURNED], struct.pack("<II", 1, 1), True,
                 id="maker is a fraction"),
    pytest.param([TURNED, (0x10F, 2, 1 << 30, after(1, 2))], b"", True, id="maker beyond the end"),
    pytest.param([TURNED, (0x8769, 4, 1, b"\xff\xff\xff\x7f")], b"", True, id="lost IFD"),
    pytest.param([TURNED, (0x8825, 4, 1, b"\x08")], b"", True, id="GPS is the IFD itself"),
    pytest.param([TURNED, (0x9999, 77, 3, b"")], b"", True, id="unknown type"),
    pytest.param([(0x112, 2, 2, b"6\0")], b"", False, id="orientation is text"),
    pytest.param([(0x112, 7, 4, b"\6")], b"", False, id="orientation is bytes"),
    pytest.param([(0x112, 3, 2, b"\6\0\6\0")], b"", True, id="two orientations"),
    pytest.param([(0x112, 3, 1, b"\x63\0")], b"", False, id="orientation 99"),
    pytest.param([(0x112, 3, 1, b"\0\0")], b"", False, id="orientation 0"),
    pytest.param([(0x112, 5, 1, after(1))], struct.pack("<II", 6, 0), False, id="6/0"),
    pytest.param([(0x112, 10, 1, after(1))], struct.pack("<ii", -1, 0), False, id="-1/0"),
])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "MPO"])
def test_impossible_exif_is_no_error(tags, tail, turned, kind):
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16, :16] = 200
    stream = io.BytesIO()
    picture = PIL.Image.fromarray(pixels)
    more = {"save_all": True, "append_images": [picture]} if kind == "MPO" else {}
    picture.save(stream, kind, exif=exif(*tags, tail=tail), **more)
    expected = np.rot90(pixels, -1) if turned else pixels
    got = decode_image(stream.getvalue()).pixels
    assert got.shape == expected.shape == (*image_size(stream.getvalue()), 3)
    assert np.abs(got.astype(int) - expected).mean() < 4


@pytest.mark.parametrize("length", [0, 4, 6, 7, 10, 14, 15, 20, 25])
def test_cut_exif_is_no_error(length):
    stream = io.BytesIO()
    PIL.Image.new("RGB", (48, 32)).save(stream, "JPEG", exif=exif(TURNED)[:length])
    assert decode_image(stream.getvalue()).pixels.shape == (32, 48, 3)
    assert image_size(stream.getvalue()) == (32, 48)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "compressed TIFF"])
def test_every_orientation_in_every_format(kind, orientation):
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16, :16], pixels[:16, 32:] = 200, 100
    tags = PIL.Image.Exif()
    tags[0x112] = orientation
    stream = io.BytesIO()
    more = {"compression": "tiff_lzw"} if kind.startswith("c") else {}
    PIL.Image.fromarray(pixels).save(stream, kind.split()[-1], exif=tags, **more)
    a, b, c, d = [(1, 0, 0, 1), (-1, 0, 0, 1), (-1, 0, 0, -1), (1, 0, 0, -1), (0, 1, 1, 0),
                  (0, 1, -1, 0), (0, -1, -1, 0), (0, -1, 1, 0)][orientation - 1]
    expected = placed(pixels, a, b, c, d)
    got = decode_image(stream.getvalue()).pixels
    assert got.shape == expected.shape == (*image_size(stream.getvalue()), 3)
    assert np.abs(got.astype(int) - expected).mean() < 4


def test_impossible_tags_of_a_tiff_are_no_error():
    tags = PIL.TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x112] = 6
    tags[0x8769] = 0x7FFFFFFF
    tags.tagtype[0x8769] = 4
    stream = io.BytesIO()
    PIL.Image.new("RGB", (48, 32), "red").save(stream, "TIFF", tiffinfo=tags)
    assert decode_image(stream.getvalue()).pixels.shape == (48, 32, 3)


def test_text_in_a_png_does_not_matter():
    """However much there is of it, before or after the pixels; orientation in XMP still counts."""
    text = PIL.PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * (2 << 20), zip=True)
    text.add_itxt("prompt", "y" * (2 << 20), zip=True)
    text.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    text.add(b"zTXt", b"late\0\0" + zlib.compress(bytes(2 << 20)), after_idat=True)
    stream = io.BytesIO()
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:5, :5] = 255
    PIL.Image.fromarray(pixels).save(stream, "PNG", pnginfo=text, icc_profile=bytes(3 << 20))
    np.testing.assert_array_equal(decode_image(stream.getvalue()).pixels, np.rot90(pixels, -1))
    assert image_size(stream.getvalue()) == (30, 20)


@pytest.mark.parametrize("name, data", [
    (b"pHYs", b"x"), (b"cHRM", b"x"), (b"sRGB", b""), (b"gAMA", b""), (b"iCCP", b"x\0\0bad"),
    (b"zTXt", b"k\0\0bad"), (b"eXIf", b"bad"), (b"tIME", None), (b"eXIf", None), (b"tRNS", None),
], ids=lambda value: value if value is None else value.decode("latin-1"))
def test_damage_to_what_adds_nothing_to_a_png_is_passed_over(name, data):
    """``None`` stands for a chunk with a wrong checksum."""
    pixels = np.arange(8 * 9 * 3, dtype=np.uint8).reshape(8, 9, 3)
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, "PNG")
    whole, body = stream.getvalue(), name + (bytes(7) if data is None else data)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(
        ">I", zlib.crc32(body) ^ (data is None))
    changed = whole[:33] + chunk + whole[33:]
    np.testing.assert_array_equal(decode_image(changed).pixels, pixels)
    assert image_size(changed) == (8, 9)
    with pytest.raises(InputError, match="not a readable image"):
        decode_image(whole[:20] + b"\1" + whole[21:])


@pytest.mark.parametrize("data, told", [
    (b"\0\0\0\x18ftypheic" + bytes(99), "HEIC image.*JPEG"), (b"<svg xmlns='x'/>", "SVG drawing"),
    (b"<?xml version='1.0'?>\n<!-- x -->\n<svg>", "SVG drawing"), (b"%PDF-1.7", "PDF document"),
    (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer.*git lfs pull"),
    (b"<!DOCTYPE html><html>404", "web page"), (bytes(99), "not a readable image"),
])
def test_what_is_not_an_image_is_called_what_it_is(data, told):
    for read in (decode_image, image_size):
        with pytest.raises(InputError, match=told):
            read(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF"])
def test_the_limit_of_pixels_is_ours(monkeypatch, kind):
    stream = io.BytesIO()
    PIL.Image.new("RGB", (200, 100), "red").save(stream, kind)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
    assert decode_image(stream.getvalue()).pixels.shape == (100, 200, 3)
    assert image_size(stream.getvalue()) == (100, 200)
    assert PIL.Image.MAX_IMAGE_PIXELS == 1000
    monkeypatch.setattr(media, "MOST_PIXELS", 19999)
    for read in (decode_image, image_size):
        with pytest.raises(InputError, match="row 3: it has 200 x 100 pixels, more than 19,999"):
            read(stream.getvalue(), "row 3")


def test_a_bomb_is_refused_before_it_is_decoded():
    stream = io.BytesIO()
    PIL.Image.new("1", (8, 8)).save(stream, "PNG")
    data = bytearray(stream.getvalue())
    data[16:24] = struct.pack(">II", 60000, 60000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(InputError, match="60000 x 60000 pixels, more than"):
        decode_image(bytes(data))


@pytest.mark.parametrize("read", [read_image, read_video, lambda path: list(iter_video(path))])
def test_a_path_that_cannot_be_read_is_named(tmp_path, monkeypatch, read):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "dangling.mp4").symlink_to("gone.mp4")
    (tmp_path / "circle.mp4").symlink_to("circle.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, message in [("folder.mp4", "a folder"), ("pipe.mp4", "not a regular file"),
                          ("dangling.mp4", "no such file: .*'gone.mp4'"),
                          ("file/x.mp4", "no such file"),
                          ("circle.mp4", "cannot be read"), ("a\0b", "no such file"),
                          ("x" * 300, "cannot be read")]:
        with pytest.raises(InputError, match=message) as caught:
            read(tmp_path / name)
        assert caught.value.where == str(tmp_path / name) and caught.value.remedy

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match="permissions"):
        read(tmp_path / "file")
    monkeypatch.undo()
    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(InputError, match="permissions"):
        read(tmp_path / "file")


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


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_pixels_are_counted_before_any_is_decoded(kind, monkeypatch):
    stream = io.BytesIO()
    PIL.Image.fromarray(grey(9)).save(stream, kind)
    decoded = []
    monkeypatch.setattr(PIL.ImageFile.ImageFile, "load", lambda self: decoded.append(self))
    with pytest.raises(TooLargeError, match="it has more than 3,071 pixels"):
        decode_image(stream.getvalue(), most=SIZE[0] * SIZE[1] - 1)
    assert not decoded
    monkeypatch.undo()
    assert decode_image(stream.getvalue(), most=SIZE[0] * SIZE[1]).pixels.shape == (*SIZE, 3)
