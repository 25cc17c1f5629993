"""Black bars: found, cut off before anything is told, and none where there are none."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.videos import HEIGHT, SPEC, WIDTH, ball, noisy, photo, truth, view, write

from fourd4d.synth.annotate import iter_clips
from fourd4d.synth.objects.mask_backends import files
from fourd4d.synth.video import letterbox
from fourd4d.synth.video.letterbox import WHOLE

FRAMES = np.stack([view(photo(0), x=2 * t) for t in range(6)])


def barred(frames, rows=14, columns=0):
    """The same frames with bars drawn over them."""
    out = np.array(frames)
    out[:, :rows], out[:, len(out[0]) - rows :] = 0, 0
    out[:, :, :columns], out[:, :, WIDTH - columns :] = 0, 0
    return out


@pytest.mark.parametrize("rows, columns", [(14, 0), (0, 20), (10, 16)])
def test_bars_are_found_and_cropped(rows, columns):
    frames = np.stack(noisy(barred(FRAMES, rows, columns)))
    inside = letterbox.window(frames).crop(frames)
    # A pixel beside each bar goes with it.
    edge_rows, edge_columns = rows + (rows > 0), columns + (columns > 0)
    assert inside.shape[1:3] == (HEIGHT - 2 * edge_rows, WIDTH - 2 * edge_columns)
    assert (inside == frames[:, edge_rows : HEIGHT - edge_rows,
                             edge_columns : WIDTH - edge_columns]).all()


def test_a_subtitle_in_a_bar_does_not_hide_it():
    frames = barred(FRAMES)
    frames[:, HEIGHT - 9 : HEIGHT - 5, 60:70] = 255
    assert letterbox.window(frames).crop(frames).shape[1] == HEIGHT - 30


def test_pictures_without_bars_and_dark_ones_stay_whole():
    assert letterbox.window(FRAMES) == WHOLE
    assert letterbox.window(np.zeros_like(FRAMES)) == WHOLE
    assert letterbox.window(barred(FRAMES, rows=1)) == WHOLE
    assert letterbox.window(barred(FRAMES, rows=30)) == WHOLE  # A line of titles.
    once = FRAMES.copy()
    once[0, :20] = 0
    assert letterbox.window(once) == WHOLE


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    picture = photo(3)
    frames = [ball(view(picture, x=1.5 * t), 30 + 1.6 * t, 50) for t in range(36)]
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    return write(path, barred(noisy(frames)))


def test_a_film_with_bars_is_told_as_one_without(film):
    # Bars rest whatever the camera does, and would tell of a still one.
    (clip,) = iter_clips(film, SPEC)
    assert clip.frames.shape[1:3] == (HEIGHT - 30, WIDTH)
    assert {s.moves for s in clip.camera} == {("Pan Right",)}
    assert clip.provenance["window"]["top"] == pytest.approx(15 / HEIGHT)
    real = truth(30, 50)[15:-15]
    one, other = clip.dynamic.masks[0], real
    assert (one & other).sum() > 0.7 * (one | other).sum()


def test_masks_of_the_whole_frame_fit_the_picture_between_the_bars(film, tmp_path):
    labels = np.stack([truth(30 + 1.6 * t, 50) for t in range(36)]).astype(np.uint8)
    np.savez(tmp_path / "film.npz", masks=labels, fps=12)
    given = files.GivenMasks(tmp_path / "film.npz").source()
    (clip,) = iter_clips(film, replace(SPEC, masks=given))
    assert clip.dynamic.source == "given"
    np.testing.assert_array_equal(clip.dynamic.masks[0], truth(30, 50)[15:-15])
