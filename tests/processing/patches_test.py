"""Frames to slots, merged tokens in window order, pooling matrices."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fourd4d.core.errors import InputError
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.processing.latent_spans import (
    covered,
    insert_spans,
    masked_weights,
    pooling_weights,
    remove_marks,
)
from fourd4d.processing.patches import (
    frames_to_slots,
    join_slots,
    resize,
    smart_resize,
    token_offsets,
)

TINY = ProtocolSpec(patch_size=4, window=16, min_pixels=64, max_pixels=4096)


@pytest.mark.parametrize("size, protocol, expected", [
    ((100, 100), ProtocolSpec(), (112, 112)), ((1080, 1920), ProtocolSpec(), (336, 588)),
    ((28, 28), ProtocolSpec(), (56, 56)), ((30, 3000), ProtocolSpec(), (28, 2996)),
    ((8, 8), ProtocolSpec(), (56, 56)), ((3, 400), ProtocolSpec(), (28, 392)),
    ((32, 48), TINY, (32, 48)), ((2, 2), TINY, (8, 8)), ((1000, 9), TINY, (672, 8)),
])
def test_smart_resize(size, protocol, expected):
    assert smart_resize(*size, protocol) == expected


@pytest.mark.parametrize("size, frames, expected", [
    ((64, 64), 1, (256, 256)),  # As two frames of that size.
    ((64, 64), 2, (256, 256)),
    ((64, 64), 32, (64, 64)),
    ((16, 270), 64, (32, 448)),  # Enlarged to 32 x 540 first.
    ((400, 300), 3, (384, 288)), ((400, 300), 64, (128, 96)),
])
def test_a_budget_of_all_frames_together(size, frames, expected):
    """The official formula for whole videos, by hand."""
    protocol = ProtocolSpec(patch_size=16, window=128, budget="video", min_pixels=128 * 32 * 32,
                            max_pixels=768 * 32 * 32)
    assert smart_resize(*size, protocol, "video", frames) == expected


def test_smart_resize_settles():
    """A frame resized once is not resized again."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        size = tuple(int(x) for x in rng.integers(28, 2000, 2))
        once = smart_resize(*size, ProtocolSpec())
        assert smart_resize(*once, ProtocolSpec()) == once
        assert all(side % 28 == 0 for side in once)


def test_absurd_shapes_are_refused():
    with pytest.raises(InputError, match="200-fold"):
        smart_resize(10, 3000, ProtocolSpec())


def frames(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


@pytest.mark.parametrize("height, width", [(32, 32), (40, 24), (8, 56), (48, 40)])
def test_every_patch_is_where_its_coordinates_say(height, width):
    pixels = frames(4, height, width)
    slots, grid = frames_to_slots(pixels, TINY)
    assert (grid.slots, grid.rows, grid.columns) == (2, height // 4, width // 4)
    assert slots.mask.sum() == grid.slots * grid.rows * grid.columns
    mean, std = np.array(TINY.image_mean), np.array(TINY.image_std)
    normal = (pixels / 255 - mean) / std
    seen = set()
    for f, w, m in np.argwhere(slots.mask):
        row, column = slots.coords[f, w, m]
        seen.add((f, row, column))
        block = normal[2 * f : 2 * f + 2, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        expected = block.transpose(3, 0, 1, 2).reshape(-1)
        np.testing.assert_allclose(slots.patches[f, w, m], expected, atol=1e-5)
        assert w == row // 4 * -(-grid.columns // 4) + column // 4
    assert len(seen) == slots.mask.sum()
    assert not slots.patches[~slots.mask].any()


def test_patches_of_a_merged_token_are_neighbours():
    slots, grid = frames_to_slots(frames(2, 40, 24), TINY)
    real = slots.mask.reshape(grid.slots, -1, 4)[..., 0]
    groups = slots.coords.reshape(grid.slots, -1, 4, 2)[real]
    square = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    np.testing.assert_array_equal(groups - groups[:, :1], np.tile(square, (len(groups), 1, 1)))
    offsets = token_offsets(grid.rows, grid.columns, TINY)
    corners = slots.coords.reshape(grid.slots, -1, 4, 2)[0, offsets, 0]
    raster = np.argwhere(np.ones((grid.rows // 2, grid.columns // 2))) * 2
    np.testing.assert_array_equal(corners, raster)


def test_an_odd_last_frame_is_repeated():
    pixels = frames(3, 16, 16)
    odd, _ = frames_to_slots(pixels, TINY)
    even, _ = frames_to_slots(pixels[[0, 1, 2, 2]], TINY)
    np.testing.assert_array_equal(odd.patches, even.patches)
    single, grid = frames_to_slots(pixels[:1], TINY)
    assert grid.slots == 1
    twice, _ = frames_to_slots(pixels[[0, 0]], TINY)
    np.testing.assert_array_equal(single.patches, twice.patches)


@pytest.mark.parametrize("temporal", [1, 3])
def test_other_temporal_patches(temporal):
    protocol = dataclasses.replace(TINY, temporal_patch=temporal)
    slots, grid = frames_to_slots(frames(4, 16, 16), protocol)
    assert grid.slots == -(-4 // temporal)
    assert slots.patches.shape[-1] == 3 * temporal * 16


def test_slots_of_different_sizes_are_joined():
    a, _ = frames_to_slots(frames(2, 16, 16), TINY)
    b, _ = frames_to_slots(frames(4, 40, 24), TINY)
    joined = join_slots([a, b], TINY)
    assert joined.mask.shape == (3, 6, 16)
    assert joined.mask.sum() == a.mask.sum() + b.mask.sum()
    np.testing.assert_array_equal(joined.patches[1:], b.patches)
    np.testing.assert_array_equal(joined.patches[0, :1], a.patches[0])
    assert join_slots([], TINY).mask.shape[0] == 0


def test_resize_keeps_a_frame_of_the_right_size():
    pixels = frames(1, 16, 24)[0]
    assert resize(pixels, (16, 24)) is pixels
    assert resize(pixels, (24, 16)).shape == (24, 16, 3)


@pytest.mark.parametrize("pooling", ["strips", "grid"])
@pytest.mark.parametrize("rows, columns", [(8, 8), (10, 6), (2, 2), (2, 14), (26, 38)])
@pytest.mark.parametrize("size", [1, 4, 9])
def test_pooling_rows_sum_to_one_over_real_tokens(pooling, rows, columns, size):
    protocol = dataclasses.replace(TINY, pooling=pooling, latent_size=size)
    weights = pooling_weights(rows, columns, protocol)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    real = np.zeros(weights.shape[1], bool)
    real[token_offsets(rows, columns, protocol)] = True
    assert not weights[:, ~real].any()
    assert (weights >= 0).all()
    if rows * columns // 4 >= size or pooling == "grid":
        assert weights[:, real].any(0).all()  # No token is left out.


def test_strips_are_runs_of_the_raster_order():
    protocol = dataclasses.replace(TINY, latent_size=4)
    weights = pooling_weights(8, 8, protocol)
    raster = weights[:, token_offsets(8, 8, protocol)]
    np.testing.assert_allclose(raster, np.kron(np.eye(4), np.full((1, 4), 0.25)))
    uneven = pooling_weights(6, 6, protocol)[:, token_offsets(6, 6, protocol)]
    assert [np.flatnonzero(row).tolist() for row in uneven] == [[0, 1], [2, 3], [4, 5], [6, 7, 8]]


@pytest.mark.parametrize("rows, columns, size", [(8, 8, 4), (10, 6, 4), (26, 38, 9), (2, 14, 4)])
def test_grid_is_adaptive_average_pooling(rows, columns, size):
    torch = pytest.importorskip("torch")
    protocol = dataclasses.replace(TINY, pooling="grid", latent_size=size)
    features = np.random.default_rng(0).standard_normal((rows // 2 * (columns // 2), 5))
    weights = pooling_weights(rows, columns, protocol)
    pooled = weights[:, token_offsets(rows, columns, protocol)] @ features
    image = torch.tensor(features.T.reshape(1, 5, rows // 2, columns // 2))
    side = round(size**0.5)
    expected = torch.nn.functional.adaptive_avg_pool2d(image, (side, side))[0].reshape(5, -1).T
    np.testing.assert_allclose(pooled, expected.numpy(), atol=1e-6)


def test_spans_and_marks():
    assert insert_spans("a <output_image>.", 2) == (
        "a <|latent_start|><|latent_pad|><|latent_pad|><|latent_end|>.")


@pytest.mark.parametrize("text, plain", [
    ("At 0s <output_image> and 1s <output_image>.", "At 0s and 1s."),
    ("<think><output_image> See.</think>", "<think>See.</think>"),
    ("<think>\n<output_image> See\n<output_image>\nit</think>", "<think>\nSee\n\nit</think>"),
    ("a <output_image> <output_image> b", "a b"), ("a<output_image>b", "ab"), ("none", "none"),
    ("a <output_image></think>", "a</think>"),
])
def test_marks_go_without_a_trace(text, plain):
    assert remove_marks(text) == plain


def test_a_mask_of_any_size_fills_cells():
    mask = np.zeros((8, 12), bool)
    mask[:4, 3:9] = True
    np.testing.assert_allclose(covered(mask, 2, 4), [[0, 1, 1, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(covered(mask, 2, 2), [[0.5, 0.5], [0, 0]])
    odd = covered(np.ones((5, 7), bool), 2, 3)
    np.testing.assert_allclose(odd, 1)


@pytest.mark.parametrize("size", [4, 9, 16])
def test_latents_are_pooled_inside_the_mask(size):
    """Where the object is, its tokens count alone; where it is not, the latent is as without."""
    protocol = dataclasses.replace(TINY, pooling="grid", latent_size=size, region="mask")
    rows = columns = 12
    plain = pooling_weights(rows, columns, protocol)
    mask = np.zeros((6, 6), bool)
    mask[0, 0] = mask[1, 1] = True  # Merged tokens of the first latent, at most.
    weights = masked_weights(rows, columns, protocol, mask)
    assert weights.shape == plain.shape and weights.dtype == plain.dtype
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(weights[-1], plain[-1])
    inside = token_offsets(rows, columns, protocol)[[0, 7]]
    assert set(np.flatnonzero(weights[0])) <= set(inside.tolist())
    if size == 4:
        np.testing.assert_allclose(weights[0, inside], 0.5)
    np.testing.assert_allclose(masked_weights(rows, columns, protocol, ~mask & mask), plain)
