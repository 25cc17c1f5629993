"""Video files → clips: camera, moving things, landmarks, and every way in which a file is bad."""

import av
import cv2
import numpy as np
import pytest
from helpers.videos import FPS, HEIGHT, SPEC, WIDTH, ball, moves, noisy, photo, truth, view, write

from fourd4d.core.errors import InputError
from fourd4d.synth.annotate import AnnotateSpec, iter_clips
from fourd4d.synth.camera import motion_labels
from fourd4d.synth.clip import CameraSegment
from fourd4d.synth.objects import mask_checks, mask_motion, naming
from fourd4d.synth.video.shots import CutDetector, ShotSpec, gradual
from fourd4d.synth.video.spans import _Reel, iter_spans


@pytest.mark.parametrize("name, motion", [
    ("Pan Right", lambda t: dict(x=18 * t)),
    ("Tilt Up", lambda t: dict(y=-14 * t)),
    ("Dolly In", lambda t: dict(zoom=1.15**t)),
    ("Roll CCW", lambda t: dict(roll=-9 * t)),
    ("Static", lambda t: {}),
])
def test_virtual_cameras_over_a_photograph(tmp_path, name, motion):
    picture = photo(1)
    frames = noisy([view(picture, **motion(i / FPS)) for i in range(24)])
    clip, = iter_clips(write(tmp_path / "a.mp4", frames), SPEC)
    assert moves(clip) == [(name,)]
    assert clip.dynamic is None
    assert clip.poses is not None and len(clip.poses) == len(clip.frames)


def test_shake_alone_is_static(tmp_path):
    rng = np.random.default_rng(3)
    shake = cv2.GaussianBlur(rng.normal(0, 6, (36, 2)), (1, 3), 0.8)
    picture = photo(2)
    frames = noisy([view(picture, x=x, y=y) for x, y in shake])
    clip, = iter_clips(write(tmp_path / "a.mp4", frames), SPEC)
    assert moves(clip) == [("Static",)] and clip.dynamic is None


@pytest.fixture(scope="module")
def crossing(tmp_path_factory):
    """A red ball that crosses a still picture, as a file, and where it is at a time."""
    scene = view(photo(4))
    where = lambda t: (20 + 30 * t, 60 - 10 * t)
    frames = noisy([ball(scene, *where(i / FPS)) for i in range(36)])
    return write(tmp_path_factory.mktemp("video") / "crossing.mp4", frames), where


def test_the_moving_thing_is_found_cut_out_and_named(crossing):
    path, where = crossing
    clip, = iter_clips(path, SPEC)
    assert moves(clip) == [("Static",)]
    track = clip.dynamic
    assert track is not None and track.name == "red object" and track.seen.mean() > 0.9
    ious = []
    for i, time in enumerate(clip.timestamps):
        real = truth(*where(time))
        ious.append((real & track.masks[i]).sum() / (real | track.masks[i]).sum())
    assert np.median(ious) > 0.85
    middles = (track.boxes[:, :2] + track.boxes[:, 2:])[track.seen] / 2
    assert (np.diff(middles[:, 0]) > 0).all()
    assert track.centers is not None and track.centers[track.seen][-1, 0] > track.centers[0, 0]
    assert [t.role for t in clip.tracks].count("dynamic") == 1


def test_the_landmark_is_static_and_apart_from_what_moves(crossing):
    clip, = iter_clips(crossing[0], SPEC)
    mark = clip.landmark
    assert mark is not None and mark.seen.mean() > 0.5 and clip.dynamic is not None
    assert not (mark.masks & clip.dynamic.masks).any()
    boxes = mark.boxes[mark.seen]
    assert np.abs(boxes - boxes[0]).max() < 0.15
    assert clip.provenance["scale"] == "relative" and clip.provenance["objects"] == "motion"


def test_a_thing_is_found_while_the_camera_pans(tmp_path):
    picture = photo(5)
    frames = [ball(view(picture, x=14 * i / FPS), 105 - 28 * i / FPS, 50) for i in range(36)]
    clip, = iter_clips(write(tmp_path / "a.mp4", noisy(frames)), SPEC)
    assert moves(clip) == [("Pan Right",)]
    assert clip.dynamic is not None and clip.dynamic.name == "red object"
    ious = [(truth(105 - 28 * t, 50) & m).sum() / (truth(105 - 28 * t, 50) | m).sum()
            for t, m in zip(clip.timestamps, clip.dynamic.masks)]
    assert np.median(ious) > 0.8


def test_cuts_split_a_file_into_clips(tmp_path):
    shots = [[view(photo(s), x=6 * i / FPS * s) for i in range(24)] for s in (6, 7)]
    clips = list(iter_clips(write(tmp_path / "film.mp4", noisy(sum(shots, []))), SPEC))
    assert [c.video_id for c in clips] == ["film", "film_0001"]
    assert clips[0].timestamps[-1] < 2.0 <= clips[1].timestamps[0] + 0.01


def test_fast_pans_and_flicker_are_no_cuts():
    picture, cut = photo(8), CutDetector()
    assert not any(cut(view(picture, x=10.0 * i)) for i in range(12))
    cut = CutDetector()
    dim = [np.clip(view(picture) * (1 - 0.03 * i), 0, 255).astype(np.uint8) for i in range(10)]
    assert not any(cut(frame) for frame in dim)


def test_long_shots_are_cut_into_spans_and_memory_follows_the_span(tmp_path):
    picture = photo(9)
    path = write(tmp_path / "long.mp4", [view(picture, x=0.3 * i) for i in range(72)])
    spec = AnnotateSpec(analysis_side=160, fps=4.0, seconds=2.0)
    clips = iter_clips(path, spec)
    first = next(clips)
    assert first.timestamps[-1] - first.timestamps[0] <= 2.0
    assert [c.video_id for c in clips] == ["long_0001", "long_0002"]


def test_variable_frame_rate_keeps_true_times(tmp_path):
    times = np.concatenate([np.arange(18) / 12, 1.5 + np.arange(14) / 7])
    frames = [view(photo(10), x=18 * t) for t in times]
    clip, = iter_clips(write(tmp_path / "vfr.mkv", noisy(frames), times=times), SPEC)
    assert np.abs(clip.timestamps[:, None] - times[None]).min(1).max() < 2e-3
    assert moves(clip) == [("Pan Right",)]


@pytest.mark.parametrize("size", [(160, 90), (96, 128)])
def test_portrait_and_four_to_three(tmp_path, size):
    picture = photo(11)
    y, x = (picture.shape[0] - size[0]) // 2, 20
    frames = [picture[y : y + size[0], x + 2 * i : x + 2 * i + size[1]] for i in range(30)]
    frames = [f[: size[0] // 2 * 2, : size[1] // 2 * 2] for f in frames]
    clip, = iter_clips(write(tmp_path / "a.mp4", frames), SPEC)
    assert clip.frames.shape[1:3] == size and moves(clip) == [("Pan Right",)]


def test_ten_bit_video(tmp_path):
    frames = [view(photo(12), x=18 * i / FPS) for i in range(30)]
    path = write(tmp_path / "a.mp4", frames, codec="libx265", pix_fmt="yuv420p10le",
                 **{"x265-params": "log-level=none"})
    assert moves(next(iter_clips(path, SPEC))) == [("Pan Right",)]


def _cut_short(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("kind, message", [
    ("text", "not a whole video"), ("empty", "empty"), ("missing", "no such file"),
    ("short", "video"), ("single", "a single frame|shorter"), ("grey", "empty"),
    ("noise", "points|shorter"), ("sound", "no video stream"),
])
def test_bad_files_say_why(tmp_path, kind, message):
    path = tmp_path / "bad.mp4"
    if kind == "text":
        path.write_text("no video at all " * 50)
    elif kind == "empty":
        path.touch()
    elif kind == "short":
        write(path, [view(photo(1))] * 30)
        _cut_short(path)
    elif kind == "single":
        write(path, [view(photo(1))])
    elif kind == "grey":
        write(path, [np.full((HEIGHT, WIDTH, 3), 128, np.uint8)] * 30)
    elif kind == "noise":
        rng = np.random.default_rng(0)
        write(path, list(rng.integers(0, 255, (24, HEIGHT, WIDTH, 3), dtype=np.uint8)))
    elif kind == "sound":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=16000)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp",
                                               layout="mono")
            sound.sample_rate = 16000
            for packet in [*stream.encode(sound), *stream.encode(None)]:
                container.mux(packet)
    with pytest.raises(InputError, match=message) as error:
        list(iter_clips(path, SPEC))
    assert "bad.mp4" in str(error.value)


def test_names_tell_things_apart():
    frames = np.full((3, 40, 60, 3), 200, np.uint8)
    masks = np.zeros((4, 3, 40, 60), bool)
    masks[0, :, 5:15, 2:12] = masks[1, :, 5:15, 45:55] = masks[2, :, 25:35, 2:12] = True
    masks[3, :, 20:38, 30:58] = True
    for k, colour in enumerate([(200, 20, 20), (200, 20, 20), (20, 60, 200), (20, 60, 200)]):
        frames[masks[k]] = colour
    names = naming.names(frames, list(masks), ["object", "object", "object", "object"])
    assert names == ["red object on the left", "red object on the right", "small blue object",
                     "large blue object"]


@pytest.mark.parametrize("rgb, word", [
    ((20, 20, 22), "black"), ((250, 250, 250), "white"), ((128, 128, 130), "grey"),
    ((90, 15, 15), "dark red"), ((120, 70, 30), "brown"), ((30, 160, 40), "green"),
    ((240, 200, 20), "yellow"), ((170, 200, 250), "light blue"),
])
def test_colour_words(rgb, word):
    frames = np.full((1, 4, 4, 3), rgb, np.uint8)
    assert naming.colour(frames, np.ones((1, 4, 4), bool)) == word


def test_inconsistent_masks_are_dropped_with_their_reasons():
    frames = np.full((10, 60, 80, 3), 90, np.uint8)
    masks = np.zeros((10, 60, 80), bool)
    for t in range(10):
        masks[t, 20:34, 5 + 5 * t : 19 + 5 * t] = True
        frames[t][masks[t]] = (200, 40, 40)
    times = np.arange(10) / 4
    good, reasons = mask_checks.check(frames, times, masks)
    assert good.all() and not reasons
    masks[4] = False
    masks[4, 10:50, 10:70] = True
    frames[4][masks[4]] = (200, 40, 40)
    masks[7] = False
    masks[7, 20:34, 40:54] = True
    frames[7] = (40, 40, 200)
    good, reasons = mask_checks.check(frames, times, masks)
    assert good.tolist() == [t not in (4, 7) for t in range(10)]
    assert reasons == {"size out of line": 1, "other colours": 1}
    masks[2:] = False
    good, reasons = mask_checks.check(frames, times, masks)
    assert not good.any() and "seen too briefly" in reasons


def test_a_switch_to_another_thing_ends_a_track():
    frames = np.full((10, 60, 160, 3), 90, np.uint8)
    masks = np.zeros((10, 60, 160), bool)
    for t in range(10):
        x = 5 + 2 * t if t < 7 else 130
        masks[t, 20:34, x : x + 14] = True
    good, reasons = mask_checks.check(frames, np.arange(10) / 4, masks)
    assert good.tolist() == [True] * 7 + [False] * 3 and reasons == {"another thing": 3}


def test_three_moves_at_once_are_not_believed_of_features_before_things_in_depth():
    two, three = (CameraSegment(0.0, 2.0, m) for m in (
        ("Pan Left", "Dolly In"), ("Pan Right", "Dolly In", "Truck Left")))
    assert motion_labels.without_ambiguous_moves(two) == two
    assert motion_labels.without_ambiguous_moves(three) == CameraSegment(0.0, 2.0, ())


def test_spec_is_checked():
    with pytest.raises(InputError, match="analysis_fps"):
        AnnotateSpec(fps=30.0, analysis_fps=10.0)
    with pytest.raises(InputError, match="not positive"):
        AnnotateSpec(seconds=0.0)


def blended(one, other, count):
    """Frames between two pictures, the ends left out."""
    share = np.linspace(0, 1, count + 2)[1:-1]
    return [((1 - s) * one + s * other).astype(np.uint8) for s in share]


@pytest.mark.parametrize("to_black", [False, True])
def test_dissolves_and_fades_end_a_shot(tmp_path, to_black):
    one, other = ([view(photo(s), x=4 * i / FPS) for i in range(24)] for s in (6, 7))
    black = np.zeros_like(one[-1])
    between = (blended(one[-1], black, 9) + blended(black, other[0], 9) if to_black
               else blended(one[-1], other[0], 12))
    path = write(tmp_path / "film.mp4", noisy(one + between + other, sigma=1.0))
    for seconds in (10.0, 2.5):  # The second ends a span in the middle of the dissolve.
        spec = AnnotateSpec(analysis_side=160, fps=4.0, seconds=seconds)
        times = [span.times for span in iter_spans(path, spec.spans)]
        first, last = 24 / FPS, (24 + len(between)) / FPS
        assert all(t[-1] < first + 0.3 or t[0] > last - 0.3 for t in times if len(t) >= 4)
        assert min(t[0] for t in times) == 0 and max(t[-1] for t in times) > last + 1.5


def test_faded_ends_are_left_out_though_no_blend_was_seen():
    # In the dark no point can be followed, and the whole shot would be refused.
    light = [0.0, 0.3, 0.6, 0.9, *[1.0] * 12, 0.7, 0.4, 0.1, 0.0]
    frames = [(s * view(photo(6), x=3 * i)).astype(np.uint8) for i, s in enumerate(light)]
    times = [i / FPS for i in range(len(light))]
    reel = _Reel(frames, times, frames[::2], list(range(0, len(light), 2)))
    (span,) = reel.pieces(_Reel(), _Reel(), ShotSpec(dissolve=0.0))
    assert (span.times[0], span.times[-1]) == (times[2], times[16])
    assert len(span.large) == 8 and (span.small[span.picked[0]] == span.large[0]).all()


@pytest.mark.parametrize("shape", ["bar", "iris"])
def test_wipes_end_a_shot_and_things_that_pass_do_not(shape):
    one, other = ([view(photo(s), x=4 * i / FPS) for i in range(30)] for s in (6, 7))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    way = columns / WIDTH if shape == "bar" else np.hypot(rows - 48, columns - 64) / 80
    share = np.clip((np.arange(30) - 9.5) / 9, 0, 1)
    film = [np.where((way < s)[..., None], b, a) for s, a, b in zip(share, one, other)]
    times = (np.arange(30) / FPS).tolist()
    (first, last), = gradual(film, times)
    assert abs(first - 9) <= 1 and abs(last - 19) <= 1
    leaf = photo(7)[:86, :110]
    passing = [view(photo(6), x=4 * i / FPS) for i in range(30)]
    for i, frame in enumerate(passing):
        x = -120 + 9 * i
        a, b = max(x, 0), min(x + 110, WIDTH)
        if a < b:
            frame[5:91, a:b] = leaf[:, a - x : b - x]
    assert gradual(passing, times) == []


@pytest.mark.parametrize("motion", [
    lambda t: dict(x=120 * t), lambda t: dict(zoom=1.4**t), lambda t: dict(roll=50 * t)])
def test_fast_cameras_are_no_dissolves(motion):
    picture, times = photo(8), (np.arange(24) / FPS).tolist()
    frames = [view(picture, **motion(t)) for t in times]
    assert gradual(frames, times) == []
    dim = [np.clip(frames[0] * (1 - 0.4 * t), 0, 255).astype(np.uint8) for t in times]
    assert gradual(dim, times) == []


def test_smooth_things_are_followed_however_far_they_go_between_two_looks():
    centres = 20 + 22 * np.arange(5)
    looks = [ball(view(photo(4)), x, 50, colour=(40, 40, 40)) for x in centres]
    grey = np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in looks])
    masks = np.stack([truth(x, 50) for x in centres])
    flow = mask_motion.backward_flow(grey)
    assert strays(masks, flow) > 10
    own = mask_motion.object_flow(grey, masks, flow)
    assert strays(masks, own) < 1.5
    assert (own[:, ~masks.any(0)] == flow[:, ~masks.any(0)]).all()
    # A mask that leaps where nothing goes is not believed.
    still = np.stack([grey[0]] * 5)
    rest = mask_motion.backward_flow(still)
    assert strays(masks, mask_motion.object_flow(still, masks, rest)) > 20


def test_masks_of_smooth_things_that_fly_past_are_kept(tmp_path):
    scene = view(photo(4))
    there = [14 + 9 * min(i % 22, 22 - i % 22) for i in range(33)]
    frames = noisy([ball(scene, x, 50, colour=(40, 40, 40)) for x in there])
    clip, = iter_clips(write(tmp_path / "a.mp4", frames), SPEC)
    assert clip.dynamic is not None and clip.dynamic.seen.mean() > 0.7
    assert "not carried by the picture's motion" not in clip.provenance["masks_dropped"]


def strays(masks, flow):
    return np.linalg.norm(mask_motion.drift(masks, flow), axis=1).max()


def test_a_flickering_edge_does_not_move_a_thing_and_a_slow_one_is_mistrusted():
    strayed = np.zeros((20, 2))
    strayed[5, 0] = 4.0  # One look's mask has swallowed something.
    fast, slow = mask_motion.split_flicker(strayed)
    np.testing.assert_array_equal(fast, strayed)
    assert not slow.any()
    strayed = np.repeat([[0.0, 0.0], [4.0, 0.0]], 10, axis=0)
    fast, slow = mask_motion.split_flicker(strayed)
    assert not fast.any() and slow[-1, 0] == 4
    strayed[3:6] = np.nan
    unseen = np.isnan(mask_motion.split_flicker(strayed)[1][:, 0])
    assert np.flatnonzero(unseen).tolist() == [3, 4, 5]


def walker(stride, height=60, left=40, top=20, count=12):
    """Masks of one who walks: legs that open and close under a trunk."""
    masks = np.zeros((count, 96, 128), bool)
    for m in range(count):
        spread = round(stride * abs(np.sin(1.3 * m)))
        masks[m, top : top + height // 2, left : left + 10] = True
        masks[m, top + height // 2 : top + height, left - spread : left + 10 + spread] = True
    return masks


def test_legs_that_open_and_close_are_no_change_of_size():
    sizes, grown = mask_motion.sizes(walker(stride=12))
    assert np.ptp(np.log(sizes)) < 1e-6 < 0.05 < np.abs(grown).max()
    whole = np.stack([truth(64, 48, 10 * 1.04**m) for m in range(12)])
    sizes, grown = mask_motion.sizes(whole)
    assert sizes[-1] / sizes[0] == pytest.approx(1.04**11, rel=0.03)
    assert np.abs(grown).max() < 0.1


def test_what_comes_into_view_is_not_held_for_nearer():
    emerging = walker(stride=0)
    for m in range(12):
        emerging[m, :, : 41 + m * 9 // 11] = False  # Out from behind a wall.
    _, grown = mask_motion.sizes(emerging)
    assert np.nanmax(grown) - np.nanmin(grown) > 0.5
    leaving = np.stack([truth(64 + 5 * m, 48, 16) for m in range(12)])
    sizes, grown = mask_motion.sizes(leaving)  # At last the picture's edge cuts it.
    assert np.isinf(grown[-1]) and np.isfinite(grown[:5]).all()
    empty = np.zeros((12, 96, 128), bool)
    empty[3, 0, 0] = True
    sizes, grown = mask_motion.sizes(empty)
    assert sizes[3] == 1 and np.isinf(grown[3]) and np.isnan(grown[2])


def test_size_is_believed_where_the_picture_in_a_mask_grows_with_it():
    picture, rest = photo(5), view(photo(4))
    scale = 1.25 ** (np.arange(5) / 4)
    discs = np.stack([truth(64, 48, 20 * s) for s in scale])
    nearing = np.stack([np.where(d[..., None], view(picture, zoom=s), rest)
                        for s, d in zip(scale, discs)])
    still = np.stack([rest] * 5)
    sizes = np.sqrt(discs.sum((1, 2)).astype(float))
    swells = [mask_motion.scale_error(discs, mask_motion.backward_flow(
        np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in frames])), sizes)
        for frames in (nearing, still)]
    assert swells[0].max() < 0.05 < 0.1 < swells[1].max()
    shifted = np.roll(discs, 50, 2)  # The picture's edge cuts it.
    grey = np.zeros((5, HEIGHT, WIDTH), np.uint8)
    assert np.isinf(mask_motion.scale_error(shifted, mask_motion.backward_flow(grey), sizes)).any()
