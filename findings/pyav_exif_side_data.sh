#!/usr/bin/env bash
# PyAV 18.1.0 and Pillow: video whose frames carry EXIF, as cameras' Motion JPEG in AVI does.
# Expected: frame.side_data lists what PyAV knows, or has an entry of an unknown kind; asking for the
#           display matrix, to turn the frame, gives None.
# Seen: any look at frame.side_data raises "ValueError: 31 is not a valid Type": FFmpeg 8 attaches
#       EXIF to the frame, and PyAV's enumeration of side data ends before it.
# Hurt: whoever turns frames by their display matrix and reads videos of cameras; the frames are whole.
# Exits 0 while that is so, 1 when it changed.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 pillow==12.0.0 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import fractions
import io
import sys

import av
import numpy as np
from PIL import Image

print("PyAV", av.__version__, "libavcodec", av.library_versions["libavcodec"])


def seen(exif):
    with av.open("camera.avi", "w") as out:
        stream = out.add_stream("mjpeg", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuvj420p"
        for number in range(4):
            data = io.BytesIO()
            Image.fromarray(np.full((64, 64, 3), 50 * number, np.uint8)).save(data, "JPEG", exif=exif)
            packet = av.Packet(data.getvalue())
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base, packet.is_keyframe = fractions.Fraction(1, 10), True
            out.mux(packet)
    with av.open("camera.avi") as file:
        frame = next(file.decode(video=0))
        try:
            return repr(frame.side_data.get("DISPLAYMATRIX"))
        except ValueError as error:
            return f"ValueError: {error}"


exif = Image.Exif()
exif[0x10F] = "Camera"
plain, camera = seen(Image.Exif()), seen(exif)
print("expected: None for both")
print("seen: without EXIF", plain, "| with EXIF", camera)
sys.exit(0 if plain == "None" and camera.startswith("ValueError") else 1)
PY
