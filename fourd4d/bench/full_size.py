"""A random model of full size through transformers and through us: logits, bytes, time, memory.

    python -m fourd4d.bench.full_size --size 3b --folder /scratch/full

Each size needs the release of transformers that ``bench parity`` compares its family with. Not part
of the default runs: for 3b it writes 2 x 7.5 GB and takes up to 17 GB of memory. Each step runs in
a process of its own, so that its peak memory is its own; files leave the page cache before they are
read. transformers leaves bfloat16 weights in the mapped file until they are used: its load ends
when each has been read once. The float32 logits are of the same weights, which stay in bfloat16 and
are widened layer by layer, here and in transformers.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fourd4d.bench.common.result import Result, show, write
from fourd4d.core.errors import InputError

STEPS = ("write", "theirs", "theirs32", "ours", "ours32", "export")
# XLA on a CPU would widen every layer's weights before the loop over layers.
_FLAGS = "--xla_disable_hlo_passes=while-loop-invariant-code-motion"
_POOL = 8_388_593  # A prime: rows of a matrix do not repeat.
T = TypeVar("T")


def _row() -> Any:
    """A question about a video with an odd number of frames, whose grid windows do not divide."""
    from fourd4d.bench.hf_parity.reference import Row
    from fourd4d.processing.media import Video

    frames = np.random.default_rng(0).integers(0, 256, (5, 150, 200, 3), dtype=np.uint8)
    return Row("video", "Which way does it go?\n\nA. Left\nB. Right",
               [Video(frames, np.arange(5) / 2.0)], [2.0])


def _memory(name: str) -> int:
    words = Path("/proc/self/status").read_text().split()
    return 1024 * int(words[words.index(f"{name}:") + 1])


def _measured(action: Callable[[], T], name: str) -> tuple[T, dict[str, float]]:
    """What it gives; its seconds, the processors' seconds (which other work does not stretch), and
    the most memory it held above what was held before.
    """
    Path("/proc/self/clear_refs").write_text("5")  # The peak is counted from here.
    before, start, busy = _memory("VmRSS"), time.perf_counter(), time.process_time()
    result = action()
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    return result, {f"{name}_seconds": seconds, f"{name}_cpu_seconds": busy,
                    f"{name}_peak_gb": (_memory("VmHWM") - before) / 1e9}


def _forget(folder: Path) -> None:
    """Takes files out of the page cache, so that reading them is reading the disk."""
    os.sync()
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_model(size: str, folder: Path) -> dict[str, Any]:
    """A random bfloat16 model, built and saved by transformers."""
    import torch
    import transformers

    from fourd4d.bench.hf_parity import reference
    from fourd4d.models import preset
    from fourd4d.models.families import family

    config = preset(size)
    processor = reference.make_processor(config)
    torch.set_default_dtype(torch.bfloat16)
    home: Any = (transformers.modeling_utils if transformers.__version__ < "5" else
                 importlib.import_module("transformers.initialization"))
    with home.no_init_weights():  # A pool is much quicker than drawing every number.
        model = reference.make_model(config, "bfloat16", processor)
    model.tie_weights()  # Which belongs to the drawing that was left out.
    torch.manual_seed(0)
    pool, at = torch.randn(_POOL).mul(0.02), 0
    with torch.no_grad():
        for name, value in model.named_parameters():
            flat = value.view(-1)
            for start in range(0, flat.numel(), _POOL):
                part = flat[start : start + _POOL]
                part.copy_(pool.roll(at)[: part.numel()])
                at += part.numel()
            if value.ndim == 1 and "bias" not in name:
                value.add_(1)
    processor.export(folder / "hf", family(config.family, folder).CLASSES)
    return _measured(lambda: model.save_pretrained(folder / "hf"), "save")[1]


def _theirs(folder: Path) -> tuple[Any, dict[str, float]]:
    import torch
    import transformers

    def load() -> Any:
        model = transformers.AutoModelForImageTextToText.from_pretrained(
            folder / "hf", torch_dtype=torch.bfloat16)
        for value in model.parameters():
            value.detach().view(torch.int16).max()
        return model

    _forget(folder / "hf")
    model, found = _measured(load, "load")
    return model.eval(), found


def _their_logits(model: Any, folder: Path) -> np.ndarray:
    import torch
    import transformers

    from fourd4d.bench.hf_parity import reference
    from fourd4d.processing import load_processor

    inputs = reference.their_inputs(
        transformers.AutoProcessor.from_pretrained(folder / "hf"),
        load_processor(folder / "hf").protocol, [_row()])
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits[0].float().numpy()


def theirs(size: str, folder: Path) -> dict[str, Any]:
    """transformers loads it; logits in bfloat16."""
    model, found = _theirs(folder)
    np.save(folder / "theirs.npy", _their_logits(model, folder))
    return found


@contextlib.contextmanager
def _widened(model: Any) -> Iterator[None]:
    """Every layer of transformers' model computes in float32, and is bfloat16 at rest."""
    import torch

    from fourd4d.bench.hf_parity import reference

    def widen(module: Any, args: Any) -> None:
        module.float()

    def narrow(module: Any, args: Any, out: Any) -> None:
        module.to(torch.bfloat16)

    visual, decoder = reference.parts(model)
    hooks, large = [], (*visual.blocks, *decoder.layers, decoder.embed_tokens, model.lm_head)
    # Pixels are cast to the encoder's first parameter's type.
    for module in (*visual.children(), decoder.norm):
        if module is not visual.blocks:
            module.float()
    for module in large:
        hooks += [module.register_forward_pre_hook(widen), module.register_forward_hook(narrow)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def theirs32(size: str, folder: Path) -> dict[str, Any]:
    """transformers' logits in float32."""
    model, _ = _theirs(folder)
    with _widened(model):
        np.save(folder / "theirs32.npy", _their_logits(model, folder))
    return {}


def _ours(folder: Path, dtype: str) -> tuple[Any, dict[str, float]]:
    from fourd4d.bench.hf_parity import reference

    _forget(folder / "hf")
    return _measured(lambda: reference.open_ours(
        folder / "hf", dtype=dtype, param_dtype="bfloat16"), "load")


def _our_logits(bundle: Any) -> np.ndarray:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from fourd4d.data import collate, shape_for

    example = _row().example(bundle.processor)
    batch = collate([example], shape_for([example]), bundle.processor.protocol)
    forward = nnx.jit(lambda model, batch: model.logits(model(batch)))
    with jax.default_matmul_precision("highest"):
        logits = forward(bundle.model, jax.tree.map(jnp.asarray, batch))
    return np.asarray(logits, np.float32)[0]


def _compare(folder: Path, mine: np.ndarray, name: str) -> dict[str, float]:
    other = np.load(folder / name)
    if mine.shape != other.shape:
        raise InputError("full_size", f"logits {mine.shape} and {other.shape}",
                         "The prompts differ")
    return {"tokens": len(mine), "max_abs_logit_diff": float(np.abs(mine - other).max()),
            "rms_logit_diff": float(np.sqrt(np.mean((mine - other) ** 2))),
            "rms_logit": float(np.sqrt(np.mean(other**2))),
            "same_next_token": float((mine.argmax(-1) == other.argmax(-1)).mean())}


def ours(size: str, folder: Path) -> dict[str, Any]:
    """We load it; logits in bfloat16 beside transformers' in bfloat16 and in float32."""
    bundle, found = _ours(folder, "bfloat16")
    logits = _our_logits(bundle)
    found |= _compare(folder, logits, "theirs.npy")
    if (folder / "theirs32.npy").exists():
        truth, other = np.load(folder / "theirs32.npy"), np.load(folder / "theirs.npy")
        found["rms_error"] = float(np.sqrt(np.mean((logits - truth) ** 2)))
        found["rms_error_transformers"] = float(np.sqrt(np.mean((other - truth) ** 2)))
    return found


def ours32(size: str, folder: Path) -> dict[str, Any]:
    """Our logits in float32 beside transformers' in float32."""
    bundle, _ = _ours(folder, "float32")
    return _compare(folder, _our_logits(bundle), "theirs32.npy")


def export(size: str, folder: Path) -> dict[str, Any]:
    """We write it back; every tensor's bytes must be those that came in."""
    from fourd4d.checkpoint.safetensors import open_directory
    from fourd4d.models.families import family
    from fourd4d.pretrained import huggingface

    bundle, _ = _ours(folder, "bfloat16")
    _, found = _measured(lambda: huggingface.export_hf(bundle, folder / "back"), "save")
    table = family(bundle.config.family, folder).key_table(bundle.config)
    before, after = open_directory(folder / "hf"), open_directory(folder / "back")
    names = {table.rename(key): tensor for key, tensor in before.items()}
    found["tensors"] = len(names)
    found["differing_tensors"] = len(names.keys() ^ after.keys()) + sum(
        a.dtype != after[key].dtype or a.shape != after[key].shape
        or not np.array_equal(_raw(a), _raw(after[key]))
        for key, a in names.items() if key in after)
    return found


def _raw(tensor: Any) -> np.ndarray:
    return np.memmap(tensor.file, np.uint8, "r", tensor.start, (tensor.stop - tensor.start,))


_RUN: dict[str, Callable[[str, Path], dict[str, Any]]] = {
    "write": write_model, "theirs": theirs, "theirs32": theirs32, "ours": ours, "ours32": ours32,
    "export": export}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="3b", help="a published size's preset")
    parser.add_argument("--folder", type=Path, required=True, help="scratch space")
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=STEPS,
                        help="which to run")
    parser.add_argument("--inside", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if sys.platform != "linux":
        parser.error("memory is read from /proc: run it on Linux")
    if not args.inside:
        from fourd4d.bench.parity import check_installed
        from fourd4d.models import preset

        check_installed(preset(args.size).family)
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.inside:
        found = _RUN[args.inside](args.size, args.folder)
        found["process_peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        print(json.dumps(found))
        return 0
    if "write" in args.steps:
        _check_space(args.size, args.folder)
    result: dict[str, float] = {}
    for step in args.steps:
        done = subprocess.run(
            [sys.executable, "-m", "fourd4d.bench.full_size", "--size", args.size, "--folder",
             str(args.folder), "--inside", step], stdout=subprocess.PIPE, text=True, check=True,
            env={**os.environ, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}"})
        found = json.loads(done.stdout.splitlines()[-1])
        size = sum(f.stat().st_size for f in (args.folder / "hf").glob("*.safetensors")) / 1e9
        result["size_gb"] = size
        for name in ("load", "save"):
            if f"{name}_seconds" in found:
                found[f"{name}_gb_per_second"] = size / found[f"{name}_seconds"]
        result |= {f"{step}/{key}": value for key, value in found.items()}
        print(step, json.dumps(found), flush=True)
    report = Result("full_size", result, {"size": args.size})
    show(report)
    write(report, args.folder / "result.json")
    return 0


def _check_space(size: str, folder: Path) -> None:
    import jax
    from flax import nnx

    from fourd4d.models import Thinker, preset

    shapes = jax.eval_shape(lambda: nnx.state(Thinker(preset(size), nnx.Rngs(0))))
    need = 2 * 2 * sum(leaf.size for leaf in jax.tree.leaves(shapes)) + (1 << 30)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise InputError(folder, f"{need / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free",
                         "Choose another folder")


if __name__ == "__main__":
    sys.exit(main())
