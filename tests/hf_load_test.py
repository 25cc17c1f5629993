"""``fourd4d.load``: a directory, a video file's frames, a question, an answer."""

import subprocess
import sys

import numpy as np
import pytest
from hf_convert_test import bundle_of

import fourd4d
from fourd4d import convert
from fourd4d.core.errors import InputError
from fourd4d.processing.media import Video


def test_answer(tmp_path):
    convert.export_hf(bundle_of(), tmp_path / "m")
    thinker = fourd4d.load(tmp_path / "m")
    video = Video(np.zeros((2, 32, 32, 3), np.uint8), np.array([0.0, 1.0]))
    said = thinker.answer(video, "Which way?", ["Left", "Right"], max_tokens=9)
    again = thinker.answer([video], "Which way?", ["Left", "Right"], max_tokens=9)
    assert said.text == again.text and said.letter in (None, "A", "B")
    assert said.latents.shape[1] == 32
    with pytest.raises(InputError, match="9 of them"):
        thinker.answer(video, "Which?", list("abcdefghi"))
    with pytest.raises(InputError, match="no such directory"):
        fourd4d.load(tmp_path / "absent")


def test_importing_the_package_starts_nothing():
    code = "import fourd4d, sys; assert not {'jax', 'flax', 'cv2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
