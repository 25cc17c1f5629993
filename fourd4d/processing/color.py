"""Decoded video frames to 8-bit sRGB pixels."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace
from jaxtyping import Float, UInt8

from fourd4d.core.errors import InputError

# Codes of matrices, primaries, transfers and ranges are those of ITU-T H.273, as in FFmpeg.
_RGB_MATRIX, _UNSPECIFIED, _YCGCO = 0, 2, 8
_MATRICES = {1, 4, 5, 6, 7, 9}  # Those that swscale converts from.
_DERIVED = {12, 13}  # From the primaries; 13 with constant luminance.
_OF_PRIMARIES = {1: 1, 4: 4, 5: 5, 6: 6, 7: 7, 9: 9}
_CONSTANT_LUMINANCE = 10  # BT.2020; near enough to the usual matrix.
_NOT_READ = {11: "YDzDx", 14: "ICtCp", 15: "IPT-C2", 16: "YCgCo-Re", 17: "YCgCo-Ro"}
_FULL_RANGE = 2
_PQ, _HLG = 16, 18
_REFERENCE_WHITE = 203.0  # nits, ITU-R BT.2408
_HLG_PEAK = 1000.0  # nits, ITU-R BT.2100
_KNEE = 0.75  # of reference white: brighter light is rolled off towards 1.
# BT.2020 to BT.709 primaries, linear light (ITU-R BT.2087).
_TO_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083],
                    [-0.0182, -0.1006, 1.1187]], np.float32)
_LUMINANCE_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)


def to_rgb(frame: VideoFrame, where: object = "video") -> UInt8[np.ndarray, "H W 3"]:
    """The frame as 8-bit RGB.

    The matrix is the one that the stream names; where it names none, BT.709 from 720 lines on and
    BT.601 below, as players do. A matrix derived from the primaries is that of the standard with
    these primaries; constant luminance is read as the usual kind. High dynamic range (PQ and HLG)
    is mapped to sRGB: diffuse white (203 nits) near white, highlights rolled off, BT.2020 primaries
    turned into BT.709. ``where`` names the file in errors.

    Raises:
      InputError: the stream names a matrix that is not read, such as ICtCp.
    """
    space = frame.colorspace
    if space in _NOT_READ and not frame.format.is_rgb:
        raise InputError(where, f"its colours are coded as {_NOT_READ[space]}, which is not read",
                         "Convert it to BT.709")
    if space == _YCGCO and not frame.format.is_rgb:
        return _from_ycgco(frame)
    if space == _CONSTANT_LUMINANCE:
        space = Colorspace.BT2020
    elif space in _DERIVED:
        space = _OF_PRIMARIES.get(frame.color_primaries, _UNSPECIFIED)
    if space not in _MATRICES and space != _RGB_MATRIX:
        space = Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601
    options: dict[str, Any] = {} if space == _RGB_MATRIX else {"src_colorspace": space}
    if frame.color_trc in (_PQ, _HLG):
        codes = frame.to_ndarray(format="rgb48le", **options)
        return _tone_map(codes, hlg=frame.color_trc == _HLG)
    return frame.to_ndarray(format="rgb24", **options)


def _from_ycgco(frame: VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
    # Any matrix will do, on both sides: then no colours are converted.
    kept: dict[str, Any] = {"src_colorspace": Colorspace.ITU709,
                            "dst_colorspace": Colorspace.ITU709}
    y, green, orange = frame.to_ndarray(format="yuv444p", **kept).astype(np.float32)
    if frame.color_range != _FULL_RANGE:
        y, green, orange = (y - 16) * (255 / 219), (green - 128) * (255 / 224) + 128, (
            orange - 128) * (255 / 224) + 128
    green, orange = green - 128, orange - 128
    rgb = np.stack([y - green + orange, y + green, y - green - orange], axis=-1)
    return np.clip(np.round(rgb), 0, 255).astype(np.uint8)


@functools.cache
def _pq_light() -> Float[np.ndarray, "65536"]:
    """Nits of each 16-bit PQ code (SMPTE ST 2084), in units of reference white."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    power = (np.arange(65536) / 65535) ** (1 / m2)
    light = np.maximum(power - c1, 0) / (c2 - c3 * power)
    return (10000 / _REFERENCE_WHITE * light ** (1 / m1)).astype(np.float32)


@functools.cache
def _hlg_light() -> Float[np.ndarray, "65536"]:
    """Scene light of each 16-bit HLG code (ARIB STD-B67), 0 … 1."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    code = np.arange(65536) / 65535
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)


@functools.cache
def _srgb_codes() -> UInt8[np.ndarray, "4096"]:
    light = np.arange(4096) / 4095
    codes = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.round(codes * 255).astype(np.uint8)


def _tone_map(codes: np.ndarray, hlg: bool) -> UInt8[np.ndarray, "H W 3"]:
    if hlg:
        scene = _hlg_light()[codes]
        gain = (scene @ _LUMINANCE_2020) ** 0.2 * (_HLG_PEAK / _REFERENCE_WHITE)
        light = scene * gain[..., None]
    else:
        light = _pq_light()[codes]
    peak = light.max(axis=-1, keepdims=True)
    rolled = _KNEE + (1 - _KNEE) * (1 - np.exp(-(peak - _KNEE) / (1 - _KNEE)))
    light = light * np.where(peak > _KNEE, rolled / np.maximum(peak, _KNEE), 1)
    display = np.clip(light @ _TO_709.T, 0, 1)
    return _srgb_codes()[np.round(display * 4095).astype(np.int32)]
