"""The overlays of synthesized samples."""

import cv2
import numpy as np


def drawn_masks(one):
    """The masks of a sample's overlays, as written."""
    return [cv2.imdecode(np.frombuffer(one.files[path], np.uint8), 0) > 0
            for path in one.sample.masks]
