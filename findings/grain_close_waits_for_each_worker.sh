#!/usr/bin/env bash
# Grain 0.2.18, IterDataset.mp_prefetch: how long close() takes in the middle of the data.
# Expected: workers end within a second or so, whatever the size of their items.
# Seen: where more is ready than the pipe between two processes holds (64 KiB on Linux), and it does
#       not go by shared memory (arrays under DatasetOptions.min_shm_size, strings, bytes), close()
#       takes 25 s for each worker, one after the other. It empties the pipe once; the worker's queue
#       then writes more, and cannot end before somebody reads that; at last it is killed.
# Hurt: whoever stops, resumes or evaluates in mid-epoch: with 8 workers a run ends 200 s late.
# Exits 0 while that is so, 1 when it changed.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet grain==0.2.18 numpy==2.4.6
cat > "$folder/closes.py" <<'PY'
import sys
import time

import grain
import numpy as np
from absl import flags


def item(number):
    return np.full(200_000, number, np.float32)


def seconds(least_shared):
    data = grain.MapDataset.range(1000).map(item).to_iter_dataset().mp_prefetch(
        grain.MultiprocessingOptions(num_workers=1, per_worker_buffer_size=8))
    rows = iter(grain.experimental.WithOptionsIterDataset(
        data, grain.experimental.DatasetOptions(min_shm_size=least_shared)))
    for _ in range(5):
        next(rows)
    began = time.monotonic()
    rows.close()
    return time.monotonic() - began


if __name__ == "__main__":
    flags.FLAGS.mark_as_parsed()
    shared, piped = seconds(0), seconds(10**9)
    print("Grain", grain.__version__, "| expected: both take a second or so")
    print(f"seen: by shared memory {shared:.1f} s, by the pipe {piped:.1f} s")
    sys.exit(0 if shared < 10 < 20 < piped else 1)
PY
"$folder/venv/bin/python" "$folder/closes.py"
