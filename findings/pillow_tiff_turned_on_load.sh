#!/usr/bin/env bash
# Pillow 12.3, TIFF files with an orientation tag (scanners, camera raw converters).
# Expected: as for JPEG and PNG, pixels as stored, and the tag 0x112 says how to turn them.
# Seen: load() turns the pixels and takes the tag away; before load() the size is that of the turned
#       picture, yet the tag still asks for a turn.
# Hurt: code that reads the tag first and then turns the pixels by it turns TIFF files twice.
# Exits 0 while that is so, 1 when it changed.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==12.3.0
"$folder/venv/bin/python" - <<'PY'
import io
import sys

import PIL
from PIL import Image

ORIENTATION = 0x112
print("Pillow", PIL.__version__, "- a picture of 6 x 4 pixels, orientation 6")
seen = {}
for kind in ("JPEG", "PNG", "TIFF"):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = io.BytesIO()
    Image.new("RGB", (6, 4)).save(data, kind, exif=exif)
    image = Image.open(data)
    before = image.size, image.getexif().get(ORIENTATION)
    image.load()
    seen[kind] = before, (image.size, image.getexif().get(ORIENTATION))
    print(f"  {kind}: opened {before}, loaded {seen[kind][1]}")
print("expected: (6, 4) and 6, before and after, for all three")
same = (seen["JPEG"] == seen["PNG"] == (((6, 4), 6), ((6, 4), 6))
        and seen["TIFF"] == (((4, 6), 6), ((4, 6), None)))
print("seen:", "TIFF is turned by load()" if same else "it is otherwise now")
sys.exit(0 if same else 1)
PY
