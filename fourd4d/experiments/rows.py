"""What stands in a response at the place of a mental image, arm by arm; the rest of a row is kept.

The rows are those of synthesis in the style ``short``, whose responses name a time, a place and a
size for each image: ``Watch the red cube. 0.0s <output_image> at 2,7 size 4. … So its motion is Up.
A. …``. Read *aloud*, a response keeps these words. Else it leaves them out, and in either case the
findings that follow from them (``Shift right 2, …``): what a mental image could show.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from fourd4d.core.errors import InputError
from fourd4d.core.files import replacing
from fourd4d.core.sample import IMAGE_MARK, Sample
from fourd4d.processing.latent_spans import insert_spans
from fourd4d.processing.tokenizer import Tokenizer

_SEEN: Final = re.compile(rf"(?P<time>\d+\.\ds) {IMAGE_MARK} (?P<place>at \d+,\d+ size \d+\.)")
_CONCLUSION: Final = " So "
BLANK: Final = "blank.png"


@dataclasses.dataclass(frozen=True)
class Parts:
    """A response of the style ``short``.

    Attributes:
      opening: up to the first time, ``<think>`` included.
      seen: (time, place) of each mental image.
      rest: from the conclusion on.
    """

    opening: str
    seen: tuple[tuple[str, str], ...]
    rest: str

    @staticmethod
    def of(sample: Sample) -> Parts:
        """Raises InputError where the response is of another form."""
        head, found, rest = sample.response.partition(_CONCLUSION)
        seen = list(_SEEN.finditer(head))
        if not found or not seen or len(seen) != len(sample.overlays):
            raise InputError(f"sample {sample.id!r}", "its response does not name a place for each "
                             "mental image", "Synthesize with --config.style=short")
        return Parts(head[: seen[0].start()].strip(),
                     tuple((m["time"], m["place"]) for m in seen), rest)

    def filled(self, mark: str, aloud: bool) -> str:
        """The response with ``mark`` after each time, and the place after it if read aloud."""
        seen = " ".join(f"{time}{mark}{f' {place}' * aloud}" for time, place in self.seen)
        return f"{self.opening} {seen}{_CONCLUSION}{self.rest}"


def imagined(sample: Sample, aloud: bool = False) -> Sample:
    """The sample with mental images."""
    response = Parts.of(sample).filled(f" {IMAGE_MARK}", aloud)
    return dataclasses.replace(sample, response=response)


def unimagined(sample: Sample, mark: str = "", aloud: bool = False) -> Sample:
    """The sample with ``mark`` in place of mental images."""
    return dataclasses.replace(sample, response=Parts.of(sample).filled(mark, aloud), overlays=(),
                               overlay_timestamps=(), masks=())


def pause_text(tokenizer: Tokenizer, latent_size: int) -> str:
    """The shortest run of dots that is as many tokens as a mental image of so many latents.

    Raises:
      InputError: no run is with this tokenizer.
    """

    def length(mark: str) -> int:
        return len(tokenizer.encode(f"0.0s{mark} 1.5s"))

    wanted = length(insert_spans(f" {IMAGE_MARK}", latent_size))
    for number in range(wanted + 1):
        for pause in (" ." * number, "." + " ." * number):
            if length(pause) == wanted:
                return pause
    raise InputError("tokenizer", f"no run of dots is {wanted} tokens",
                     "Leave the arm 'pause' out, or change protocol.latent_size")


def blinded(sample: Sample) -> Sample:
    """The same number of frames, all of them ``BLANK``."""
    return dataclasses.replace(sample, frames=(BLANK,) * len(sample.frames))


def write_blank(folder: Path, size: tuple[int, int]) -> None:
    """Write the grey frame of a size (height, width) that ``blinded`` rows name."""
    done, data = cv2.imencode(".png", np.full((*size, 3), 128, np.uint8))
    assert done
    with replacing(folder / BLANK) as temporary:
        temporary.write_bytes(data.tobytes())
