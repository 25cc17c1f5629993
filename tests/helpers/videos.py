"""Video files made for tests, with known motion."""

import functools
from fractions import Fraction

import av
import cv2
import numpy as np

from fourd4d.synth.annotate import AnnotateSpec

HEIGHT, WIDTH, FPS = 96, 128, 12
SPEC = AnnotateSpec(analysis_side=160, fps=4.0)


@functools.cache
def photo(seed, height=3 * HEIGHT, width=3 * WIDTH):
    """A picture with texture at all scales and a few plain things."""
    rng = np.random.default_rng(seed)
    out = np.zeros((height, width, 3), np.float32)
    for cell in (4, 9, 20, 60):
        noise = rng.uniform(-1, 1, (height // cell + 2, width // cell + 2, 3)).astype(np.float32)
        out += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) * cell**0.5 * 9
    out = np.clip(out + rng.uniform(90, 160, 3), 0, 255).astype(np.uint8)
    for _ in range(14):
        x, y = rng.integers(0, width), rng.integers(0, height)
        cv2.circle(out, (int(x), int(y)), int(rng.integers(8, 16)),
                   tuple(int(v) for v in rng.integers(0, 255, 3)), -1)
    out.flags.writeable = False  # Every test is shown the same one.
    return out


def view(picture, x=0.0, y=0.0, zoom=1.0, roll=0.0):
    """What a virtual camera sees of a picture's middle."""
    middle = (picture.shape[1] / 2 + x, picture.shape[0] / 2 + y)
    matrix = cv2.getRotationMatrix2D(middle, roll, zoom)
    matrix[:, 2] += np.array([WIDTH, HEIGHT]) / 2 - middle
    return cv2.warpAffine(picture, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_AREA)


def write(path, frames, fps=FPS, times=None, codec="libx264", **options):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = options.pop("pix_fmt", "yuv420p")
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        stream.options = {"crf": "18", "preset": "veryfast", **options}
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[i] * 1000), Fraction(1, 1000)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def noisy(frames, seed=0, sigma=3.0):
    rng = np.random.default_rng(seed)
    return [np.clip(f + rng.normal(0, sigma, f.shape), 0, 255).astype(np.uint8) for f in frames]


def ball(frame, x, y, radius=13, colour=(220, 30, 30)):
    out = frame.copy()
    cv2.circle(out, (round(x * 16), round(y * 16)), radius * 16, colour, -1, cv2.LINE_AA, 4)
    return out


def truth(x, y, radius=13):
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def moves(clip):
    return [segment.moves for segment in clip.camera]
