#!/usr/bin/env bash
# torchvision 0.29.1 with torch 2.14.1, and Pillow 13.0.0: uint8 pictures resized bicubically with antialiasing.
# Expected: the same picture to one level of 255 whatever the sizes, as where both sides shrink or grow.
# Seen: where rows become fewer and columns more, levels differ by more than ten, in a quarter of all values;
#       where rows become more and columns fewer, by one.
# Hurt: models trained on frames resized by Pillow ("slow" image processors) and run on torchvision's ("fast").
# Exits 0 while that is so, 1 when it changed.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 torchvision==0.29.1 pillow==13.0.0 numpy
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np
import PIL.Image
import torch
import torchvision
from torchvision.transforms.v2 import InterpolationMode, functional

print("torchvision", torchvision.__version__, "torch", torch.__version__, "Pillow", PIL.__version__)
rng, seen = np.random.default_rng(0), {}
for name, size, new in (("both grow", (40, 60), (64, 96)), ("both shrink", (150, 130), (96, 96)),
                        ("rows grow, columns shrink", (40, 150), (64, 96)),
                        ("rows shrink, columns grow", (150, 40), (96, 64))):
    picture = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    one = PIL.Image.fromarray(picture).resize(new[::-1], PIL.Image.Resampling.BICUBIC)
    other = functional.resize(torch.tensor(picture).permute(2, 0, 1), list(new), antialias=True,
                              interpolation=InterpolationMode.BICUBIC).permute(1, 2, 0)
    apart = np.abs(np.asarray(one).astype(int) - other.numpy().astype(int))
    seen[name] = int(apart.max())
    print(f"  {name}: at most {apart.max()} levels, {(apart > 0).mean():.1%} of values differ")
print("expected: at most 1 everywhere")
*others, odd = seen.values()
same = max(others) <= 1 and odd > 5
print("seen:", "rows that shrink beside columns that grow are off" if same else "it is otherwise now")
sys.exit(0 if same else 1)
PY
