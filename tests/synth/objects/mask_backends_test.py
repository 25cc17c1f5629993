"""Sources of masks: files in every layout, sizes, what moves and what does not."""

import cv2
import numpy as np
import pytest
from helpers.masks import COUNT, GOING, HEIGHT, TIMES, WIDTH, sight, square
from scipy.sparse import csr_matrix

from fourd4d.core.errors import InputError
from fourd4d.synth.objects import naming
from fourd4d.synth.objects.classify import role_of
from fourd4d.synth.objects.mask_backends import motion
from fourd4d.synth.objects.mask_backends.base import ObjectMask
from fourd4d.synth.objects.mask_backends.files import GivenMasks, find_given
from fourd4d.synth.objects.mask_backends.motion import boxes_of, without_limb
from fourd4d.synth.objects.motion_segmentation import MovingObject

RESTING = square(30, 34)


def labelled():
    labels = np.zeros((COUNT, HEIGHT, WIDTH), np.uint8)
    labels[GOING], labels[RESTING] = 1, 2
    return labels


def equal(found, *truth):
    assert len(found) == len(truth)
    for one, real in zip(found, truth):
        np.testing.assert_array_equal(one.masks, real)


def test_numbers_of_things_and_their_names(tmp_path):
    np.savez(tmp_path / "a.npz", masks=labelled(), timestamps=TIMES, names=["dog", "bench"])
    source = find_given(tmp_path, "a").source()
    found = source.find(sight())
    equal(found, GOING, RESTING)
    assert [f.name for f in found] == ["dog", "bench"] and source.name == "given"
    np.savez(tmp_path / "b.npz", masks=np.stack([RESTING, GOING]), fps=5.0)
    equal(find_given(tmp_path, "b").source().find(sight()), RESTING, GOING)


def test_whatever_moves_is_split_into_things_that_keep_their_identity(tmp_path):
    other = square(50 - 4 * np.arange(COUNT), 30)
    np.savez(tmp_path / "a.npz", masks=GOING | other, timestamps=TIMES)
    found = GivenMasks(tmp_path / "a.npz").source().find(sight())
    equal(sorted(found, key=lambda f: int(np.nonzero(f.masks[0])[0].min())), GOING, other)
    speck = np.zeros_like(GOING)
    speck[3, 2:6, 2:6] = True
    np.savez(tmp_path / "a.npz", masks=GOING | speck, timestamps=TIMES)
    equal(GivenMasks(tmp_path / "a.npz").source().find(sight()), GOING)


def sparse(path, moving):
    arrays = {"shape": np.array(moving.shape[1:])}
    for i, mask in enumerate(moving):
        matrix = csr_matrix(mask)
        arrays |= {f"f_{i}_data": matrix.data, f"f_{i}_indices": matrix.indices,
                   f"f_{i}_indptr": matrix.indptr}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


def test_spatialvid_masks_are_a_fifth_of_a_second_apart(tmp_path):
    sparse(tmp_path / "group" / "uuid" / "dyn_masks.npz", GOING)
    given = find_given(tmp_path, "uuid")
    np.testing.assert_allclose(given.stored.times, TIMES)
    source = given.source()
    equal(source.find(sight()), GOING)
    assert source.name == "spatialvid"


def test_a_name_is_no_pattern(tmp_path):
    sparse(tmp_path / "group" / "walk [1]" / "dyn_masks.npz", GOING)
    equal(find_given(tmp_path, "walk [1]").source().find(sight()), GOING)
    with pytest.raises(InputError, match=r"no masks of 'walk\*'"):
        find_given(tmp_path, "walk*")


def test_a_folder_of_images(tmp_path):
    for m in range(COUNT):
        for k, part in enumerate((GOING, RESTING)):
            (tmp_path / "v").mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / "v" / f"frame_{m:04d}_obj{k}.png"),
                        part[m].astype(np.uint8) * 255)
    equal(find_given(tmp_path, "v", fps=5.0).source().find(sight()), GOING, RESTING)
    with pytest.raises(InputError, match="carry no times"):
        find_given(tmp_path, "v").source().find(sight())
    (tmp_path / "w").mkdir()
    for m in range(COUNT):
        cv2.imwrite(str(tmp_path / "w" / f"{m:03d}.png"), GOING[m].astype(np.uint8) * 255)
    equal(find_given(tmp_path, "w", fps=5.0).source().find(sight()), GOING)


def test_masks_of_another_size_are_resized_and_of_another_shape_refused(tmp_path):
    large = np.stack([np.kron(m, np.ones((3, 3), bool)) for m in GOING])
    np.savez(tmp_path / "a.npz", masks=large.astype(np.uint8), timestamps=TIMES)
    equal(GivenMasks(tmp_path / "a.npz").source().find(sight()), GOING)
    np.savez(tmp_path / "b.npz", masks=GOING[:, :, :48].astype(np.uint8), timestamps=TIMES)
    with pytest.raises(InputError, match=r"b.npz: masks of 48x48, the video is 64x48"):
        GivenMasks(tmp_path / "b.npz").source().find(sight())
    turned = GOING.swapaxes(1, 2).astype(np.uint8)
    np.savez(tmp_path / "c.npz", masks=turned, timestamps=TIMES)
    with pytest.raises(InputError, match="Turn the masks upright"):
        GivenMasks(tmp_path / "c.npz").source().find(sight())


def test_the_nearest_mask_is_taken_and_none_from_afar(tmp_path):
    np.savez(tmp_path / "a.npz", masks=labelled()[:7], timestamps=TIMES[:7] + 0.04)
    found = GivenMasks(tmp_path / "a.npz").source().find(sight())
    np.testing.assert_array_equal(found[0].masks[:7], GOING[:7])
    assert not found[0].masks[7:].any()
    np.savez(tmp_path / "a.npz", masks=labelled(), timestamps=TIMES + 90)
    with pytest.raises(InputError, match="masks cover 90.00-91.80 s, the clip lies at 0.00-1.80"):
        GivenMasks(tmp_path / "a.npz").source().find(sight())


@pytest.mark.parametrize("arrays, message", [
    (dict(other=np.zeros(3)), "neither 'masks' nor 'shape'"),
    (dict(masks=labelled()), "neither 'timestamps' nor 'fps'"),
    (dict(masks=labelled().astype(float), timestamps=TIMES), "masks are float64"),
    (dict(masks=labelled(), timestamps=TIMES[::-1]), "do not rise"),
    (dict(masks=labelled(), timestamps=TIMES[:3]), "do not match"),
    (dict(shape=np.array([4, 4]), f_0_indptr=np.array([0, 1])), "no sparse masks"),
    (dict(shape=np.array([4, 4]), f_0_data=np.ones(1), f_0_indices=np.array([9]),
          f_0_indptr=np.array([0, 1, 1, 1, 1])), "no sparse masks"),
    (dict(shape=np.array([4, 4])), "holds no frame"),
])
def test_bad_mask_files_are_told(tmp_path, arrays, message):
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(InputError, match=message):
        GivenMasks(tmp_path / "m.npz").source().find(sight())


def test_a_pickle_is_not_opened(tmp_path):
    np.savez(tmp_path / "m.npz", masks=np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(InputError, match="not a readable array file"):
        GivenMasks(tmp_path / "m.npz").source().find(sight())
    with pytest.raises(InputError, match="no masks of 'x' here"):
        find_given(tmp_path, "x")


def test_what_moves_against_the_scene_is_dynamic():
    assert role_of(sight(), GOING) == "dynamic"
    assert role_of(sight(), RESTING) == "static"
    # Under a camera that pans, what slides along is the scene; what keeps its place moves.
    shift = -np.round(60 * np.tan(np.radians(2.0 * np.arange(COUNT))))
    assert role_of(sight(pan=2.0), square(40 + shift, 20)) == "static"
    assert role_of(sight(pan=2.0), RESTING) == "dynamic"
    wobbling = np.full((COUNT, HEIGHT, WIDTH), 2.0, np.float32)
    assert role_of(sight(evidence=wobbling), RESTING) == ""
    growing = np.zeros_like(GOING)
    for m in range(COUNT):
        growing[m, 24 - 5 - m : 24 + 5 + m, 30 - 5 - m : 30 + 5 + m] = True
    assert role_of(sight(), growing) == "dynamic"


def test_boxes_are_taken_where_a_thing_shows_best(monkeypatch):
    evidence = GOING * np.linspace(0.5, 3, COUNT, dtype=np.float32)[:, None, None]
    thing = MovingObject(GOING, 1.0, 0.3)
    monkeypatch.setattr(motion.motion_segmentation, "find_moving", lambda *_, **__: [thing])
    (frame, box, found), = boxes_of(sight(evidence=evidence))
    x = 4 + 4 * frame
    assert box == (x, 10, x + 10, 20) and found.role == "dynamic" and evidence[frame].max() > 1


def test_names_that_two_things_share_are_told_apart_by_looks():
    frames = np.full((COUNT, HEIGHT, WIDTH, 3), 200, np.uint8)
    frames[GOING], frames[RESTING] = (200, 20, 20), (20, 40, 200)
    things = [ObjectMask(GOING, "person", "dynamic"), ObjectMask(RESTING, "person", "static")]
    assert naming.labels(frames, things) == ["red person", "blue person"]
    things[1] = ObjectMask(RESTING, "", "static")
    assert naming.labels(frames, things) == ["person", "blue region"]


def test_the_arm_that_holds_a_thing_is_no_part_of_it():
    thing = np.zeros((120, 160), bool)
    thing[40:80, 50:100] = True
    arm = np.zeros_like(thing)
    arm[52:64, 100:] = True
    freed = without_limb(thing | arm)
    assert (freed & thing).sum() > 0.97 * thing.sum() and (freed & arm).sum() < 0.3 * arm.sum()
    leaving = np.roll(thing, 75, 1)  # As thick at the edge as elsewhere.
    leaving[:, :20] = False
    for whole in (thing, leaving, np.zeros_like(thing), arm):
        assert (without_limb(whole) == whole).all()
