"""Decoded video frames to 8-bit sRGB pixels."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, ColorTrc
from jaxtyping import Float, UInt8

_UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED
_RGB_MATRIX = 0  # AVCOL_SPC_RGB
_REFERENCE_WHITE = 203.0  # nits, ITU-R BT.2408
_HLG_PEAK = 1000.0  # nits, ITU-R BT.2100
_KNEE = 0.75  # of reference white: brighter light is rolled off towards 1.
# BT.2020 to BT.709 primaries, linear light (ITU-R BT.2087).
_TO_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083],
                    [-0.0182, -0.1006, 1.1187]], np.float32)
_LUMINANCE_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)


def to_rgb(frame: VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
    """The frame as 8-bit RGB.

    The matrix is the one that the stream names; where it names none, BT.709 from 720 lines on and
    BT.601 below, as players do. High dynamic range (PQ and HLG) is mapped to sRGB: diffuse white
    (203 nits) near white, highlights rolled off, BT.2020 primaries turned into BT.709.
    """
    space = frame.colorspace
    if space == _UNSPECIFIED:
        space = Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601
    options: dict[str, Any] = {} if space == _RGB_MATRIX else {"src_colorspace": space}
    if frame.color_trc in (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67):
        codes = frame.to_ndarray(format="rgb48le", **options)
        return _tone_map(codes, hlg=frame.color_trc == ColorTrc.ARIB_STD_B67)
    return frame.to_ndarray(format="rgb24", **options)


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
