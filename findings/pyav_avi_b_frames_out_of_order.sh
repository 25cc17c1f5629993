#!/usr/bin/env bash
# PyAV 18.1 (its own FFmpeg), H.264 with B-frames in AVI.
# Expected: decode() gives frames in the order they are shown, their times increasing, as from MP4.
# Seen: the frames come in the right order, but their times are made from the order of storage
#       (AVI holds none): 0.1, 0.3, 0.4, 0.2, ... They do not start at 0, and go back and forth.
# Hurt: whoever picks frames of such a file by time, or sorts by it, gets others in another order.
# Exits 0 while that is so, 1 when it changed.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 numpy==2.3.5
cd "$folder" && venv/bin/python - <<'PY'
import fractions
import sys

import av
import numpy as np

print("PyAV", av.__version__, "- 20 frames, ever brighter, 10 a second, two B-frames in a row")
seen = {}
for name in ("clip.mp4", "clip.avi"):
    with av.open(name, "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.options = {"x264-params": "bframes=2:b-adapt=0"}
        for k in range(21):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 10 * k, np.uint8), "rgb24")
            frame.pts, frame.time_base = k, fractions.Fraction(1, 10)
            for packet in stream.encode(frame if k < 20 else None):
                out.mux(packet)
    with av.open(name) as file:
        frames = [(round(float(f.time), 2), int(f.to_ndarray(format="gray").mean()))
                  for f in file.decode(video=0)]
    times, grey = zip(*frames)
    seen[name] = list(times) == sorted(times), list(grey) == sorted(grey)
    print(f"  {name}: times {times[:8]}, brightness {grey[:8]}")
print("expected: both increase in both files")
same = seen == {"clip.mp4": (True, True), "clip.avi": (False, True)}
print("seen:", "times in AVI go back and forth" if same else "it is otherwise now")
sys.exit(0 if same else 1)
PY
