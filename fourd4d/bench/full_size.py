"""A random model of full size through transformers and through us: logits, bytes, time, memory.

    python -m fourd4d.bench.full_size --size 3b --folder /scratch/full

Not part of the default runs: 3b writes 2 x 7.5 GB and needs about 20 GB of memory to compare.
Each step runs in a process of its own, so that peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from fourd4d.core.files import replacing

STEPS = ("write", "theirs", "ours", "export")


def _tokens(vocab: int, length: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, vocab - 300, (1, length)).astype(np.int32)


def write(size: str, folder: Path) -> dict[str, Any]:
    """A random bfloat16 model, built and saved by transformers."""
    import torch
    import transformers

    from fourd4d.models import preset
    from fourd4d.models.qwen2_5_vl import to_hf

    ours = preset(size)
    # The prompt holds none of these; transformers looks for them all the same.
    ids = {f"{name}_token_id": ours.decoder.vocab - 1 - i
           for i, name in enumerate(("image", "video", "vision_start", "vision_end"))}
    config = transformers.AutoConfig.for_model(**to_hf(ours, "bfloat16", **ids))
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = transformers.AutoModelForImageTextToText.from_config(config)
    start = time.time()
    model.save_pretrained(folder / "hf", safe_serialization=True)
    return {"save_seconds": time.time() - start}


def theirs(size: str, folder: Path) -> dict[str, Any]:
    """transformers loads it; logits in bfloat16."""
    import torch
    import transformers

    start = time.time()
    model = transformers.AutoModelForImageTextToText.from_pretrained(
        folder / "hf", torch_dtype=torch.bfloat16)
    loaded = time.time() - start
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(_tokens(model.config.vocab_size)).long()).logits
    np.save(folder / "theirs.npy", logits.float().numpy())
    return {"load_seconds": loaded}


def _open(folder: Path) -> tuple[Any, Any, float]:
    import jax
    from flax import nnx

    from fourd4d import convert
    from fourd4d.checkpoint.safetensors import read_hf
    from fourd4d.models import Thinker
    from fourd4d.models.families import family

    config = convert.hf_config(folder / "hf")
    graphdef, abstract = jax.eval_shape(lambda: nnx.split(Thinker(config, nnx.Rngs(0))))
    table = family(config.family, folder).key_table(config)
    start = time.time()
    tree = read_hf(folder / "hf", table, abstract)
    return nnx.merge(graphdef, tree), table, time.time() - start


def ours(size: str, folder: Path) -> dict[str, Any]:
    """We load it; logits in bfloat16 beside transformers' own."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    model, _, loaded = _open(folder)
    tokens = _tokens(model.config.decoder.vocab)
    length = tokens.shape[1]

    @nnx.jit
    def forward(model: Any, tokens: Any) -> Any:
        positions = jnp.broadcast_to(jnp.arange(length), (3, 1, length))
        hidden, _ = model.decode(model.embed(tokens), positions, jnp.ones_like(tokens))
        return model.logits(hidden)

    logits = np.asarray(jax.block_until_ready(forward(model, tokens)), np.float32)
    other = np.load(folder / "theirs.npy")
    return {"load_seconds": loaded, "max_abs_logit_diff_bf16": float(np.abs(logits - other).max()),
            "mean_abs_logit_diff_bf16": float(np.abs(logits - other).mean()),
            "mean_abs_logit": float(np.abs(other).mean()),
            "same_next_token": float((logits.argmax(-1) == other.argmax(-1)).mean())}


def export(size: str, folder: Path) -> dict[str, Any]:
    """We write it back; every tensor's bytes must be those that came in."""
    import jax
    from flax import nnx

    from fourd4d.checkpoint.safetensors import open_directory, write_hf

    model, table, _ = _open(folder)
    start = time.time()
    write_hf(folder / "back", table, jax.tree.map(lambda x: x, nnx.state(model)))
    saved = time.time() - start
    before, after = open_directory(folder / "hf"), open_directory(folder / "back")
    differing = 0
    for key, a in before.items():
        name = table.rename(key)
        b = after.get(name)
        differing += b is None or a.shape != b.shape or not np.array_equal(_raw(a), _raw(b))
    return {"save_seconds": saved, "differing_tensors": int(differing)}


def _raw(tensor: Any) -> np.ndarray:
    return np.memmap(tensor.file, np.uint8, "r", tensor.start, (tensor.stop - tensor.start,))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="3b")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=STEPS)
    parser.add_argument("--inside", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.inside:
        found = globals()[args.inside](args.size, args.folder)
        found["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        print(json.dumps(found))
        return 0
    result: dict[str, Any] = {}
    for step in args.steps:
        done = subprocess.run(
            [sys.executable, "-m", "fourd4d.bench.full_size", "--size", args.size, "--folder",
             str(args.folder), "--inside", step], stdout=subprocess.PIPE, text=True, check=True)
        result[step] = json.loads(done.stdout.splitlines()[-1])
        size = sum(f.stat().st_size for f in (args.folder / "hf").glob("*.safetensors")) / 1e9
        for name in ("load_seconds", "save_seconds"):
            if name in result[step]:
                result[step]["gb_per_second"] = size / result[step][name]
        print(step, json.dumps(result[step]), flush=True)
    with replacing(args.folder / "result.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
