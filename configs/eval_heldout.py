"""Multiple-choice questions, answered greedily: held-out synthesized ones or any JSONL.

    python -m fourd4d.eval --config=configs/eval_heldout.py \
        --config.checkpoint=DIR --config.data=FILE.jsonl --config.root=DIR

A published benchmark from its own files (docs/benchmarks): --config.benchmark=NAME
--config.root=DIR in place of the data.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.checkpoint = ""
    config.step = 0  # 0 is the newest.
    config.mesh = "cpu"  # Of one host's devices.
    config.model = ConfigDict()

    config.data = ""  # DIFT rows or 4DRL rows, or a directory of ArrayRecord shards.
    config.root = ""  # Where the rows' paths start; the file's own directory when empty.
    config.benchmark = ""  # A name of fourd4d.eval.benchmarks.TABLE; its files are below root.
    config.split = ""  # One of the benchmark's; its first when empty.
    config.protocols = ""  # Names with commas; the one this package trains with when empty.
    config.modes = ""  # Names with commas; "normal,blind" when empty.
    config.runs = 1  # With per-item seeds of their own; more need a temperature.
    config.subset = ""  # Only the items of this file (needs_video_*.json).
    config.limit = 0  # Only the first items; 0 is all.
    config.out = "runs/eval"
    config.retry_failed = False
    config.shards = 0  # 0: one shard per host of this job.
    config.shard = 0
    config.page_items = 24
    config.imagery_items = 256  # Whose mental images are held against their targets; 0 is none.
    config.title = "Held-out questions"

    config.eval = ConfigDict(dict(
        max_tokens=512, max_latents=64, temperature=0.0, top_p=1.0, imagery=True, seed=0,
        assumed_fps=0.0, rows=16, slots=0, length_step=64, slot_step=4, lookahead=8,
        workers=2, batch_tokens=131_072, max_length=32_768, cache_bytes=1 << 30,
    ))
    return config
