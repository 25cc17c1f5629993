"""Packages import only from strictly lower layers; the layers are in the table below.

Reads source, runs none of it. Imports under ``TYPE_CHECKING`` and inside functions count too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "fourd4d"
ROOT = Path(__file__).resolve().parents[1] / PACKAGE

LAYERS = {
    "core": 0,
    "parallel": 1, "processing": 1, "pages": 1,
    "losses": 2, "models": 2, "data": 2, "rewards": 2, "checkpoint": 2, "synth": 2,
    "sampling": 3,
    "train": 4,
    "config": 5, "pretrained": 5,
    "dift": 6, "rl": 6, "eval": 6,
    "serve": 7,
    "bench": 8, "experiments": 8, "quickstart": 8,
}
ENTRY = 8  # fourd4d/*.py and every __main__.py.
LIGHT = {"processing", "pages", "core.sample", "core.jsonl", "core.protocol", "core.example",
         "core.errors", "core.files", "core.html", "core.storage", "core.bucket_path"}
HEAVY = {"jax", "jaxlib", "flax", "optax", "orbax", "torch", "tensorflow"}


def modules(root: Path) -> Iterator[tuple[Path, str]]:
    """Every source file with its dotted name."""
    for path in sorted(root.rglob("*.py")):
        parts = (root.name, *path.relative_to(root).with_suffix("").parts)
        yield path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, name: str, known: set[str]) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of everything a file imports, relative imports resolved."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, base] if base else up)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield node.lineno, inner if inner in known else base


def package_of(name: str) -> str | None:
    """The sub-package of a dotted module name; None for fourd4d itself and its top-level files."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else None


def layer_of(name: str) -> int:
    package = package_of(name)
    return ENTRY if package is None or name.endswith("__main__") else LAYERS[package]


def breaches(root: Path) -> list[str]:
    """One line per import that climbs, names an unknown package or starts JAX where it may not."""
    files = list(modules(root))
    known = {name for _, name in files}
    package = root.name
    found = []
    for entry in sorted(root.iterdir()):
        if entry.is_dir() and any(entry.rglob("*.py")) and entry.name not in LAYERS:
            found.append(f"{package}/{entry.name}: no such package in the table of layers")
    for path, name in files:
        where = f"{package}/{path.relative_to(root)}"
        own, layer = package_of(name), layer_of(name)
        inner = name.split(".", 1)[1] if "." in name else ""
        light = any(inner == l or inner.startswith(l + ".") for l in LIGHT)
        light = light and not name.endswith("__main__")
        for line, target in imports(path, name, known):
            top = target.split(".")[0]
            if light and top in HEAVY:
                found.append(f"{where}:{line}: imports {target}, but must not start JAX")
            if top != package:
                continue
            other = package_of(target)
            if light and not any(
                target == f"{package}.{l}" or target.startswith(f"{package}.{l}.") for l in LIGHT
            ) and other != own and target != f"{package}.core":
                found.append(f"{where}:{line}: imports {target}, which may start JAX")
            if layer == ENTRY and (own is None or name.endswith("__main__") or own == other):
                if layer_of(target) <= ENTRY:
                    continue
            if other == own and own is not None and not target.endswith("__main__"):
                continue
            if layer_of(target) >= layer:
                found.append(f"{where}:{line}: {own or 'entry'} (layer {layer}) imports {target} "
                             f"(layer {layer_of(target)})")
    return found


def test_packages_import_only_from_lower_layers():
    found = breaches(ROOT)
    assert not found, "\n".join(found)


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root / PACKAGE


def test_a_clean_tree_passes(tmp_path):
    root = _write(tmp_path, {
        "__init__.py": "from fourd4d.models import config\n",
        "core/__init__.py": "", "core/sample.py": "import json\n", "core/batch.py": "import jax\n",
        "models/__init__.py": "from . import config\n",
        "models/config.py": "from ..core import batch\nfrom fourd4d.models import other\n",
        "models/other.py": "",
        "dift/__init__.py": "", "dift/step.py": "import fourd4d.models.config\n",
        "dift/__main__.py": "from fourd4d.dift import step\nfrom fourd4d import quickstart\n",
        "quickstart.py": "from fourd4d.dift import step\n",
        "bench/__init__.py": "", "bench/fit.py": "from fourd4d.bench import table\n",
        "bench/table.py": "from fourd4d.dift import step\n",
        "processing/__init__.py": "import numpy\nfrom fourd4d.core.sample import Sample\n",
    })
    assert breaches(root) == []


def test_every_kind_of_breach_is_named_with_file_and_line(tmp_path):
    root = _write(tmp_path, {
        "core/__init__.py": "", "core/batch.py": "import jax\n",
        "core/up.py": "x = 1\nfrom fourd4d.models import config\n",
        "core/jsonl.py": "\n\nimport jax.numpy as jnp\n",
        "models/__init__.py": "", "models/config.py": "from ..synth import clip\n",
        "models/late.py": "def f():\n    import fourd4d.train.loop\n",
        "synth/__init__.py": "",
        "synth/clip.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
                         "    from fourd4d.sampling import loop\n",
        "train/__init__.py": "", "train/loop.py": "from fourd4d import quickstart\n",
        "sampling/__init__.py": "", "sampling/loop.py": "from .. import dift\n",
        "dift/__init__.py": "", "dift/step.py": "from fourd4d.rl import step\n",
        "dift/entry.py": "from fourd4d.dift import __main__\n", "dift/__main__.py": "",
        "rl/__init__.py": "", "rl/step.py": "",
        "processing/__init__.py": "import flax\nfrom fourd4d.core.batch import Batch\n",
        "quickstart.py": "", "utils/__init__.py": "x = 1\n",
    })
    found = "\n".join(breaches(root))
    for where in (
        "fourd4d/core/up.py:2", "fourd4d/core/jsonl.py:3", "fourd4d/models/config.py:1",
        "fourd4d/models/late.py:2", "fourd4d/synth/clip.py:3", "fourd4d/train/loop.py:1",
        "fourd4d/sampling/loop.py:1", "fourd4d/dift/step.py:1", "fourd4d/dift/entry.py:1",
        "fourd4d/processing/__init__.py:1", "fourd4d/processing/__init__.py:2", "fourd4d/utils",
    ):
        assert where in found, f"{where} not in\n{found}"
    assert len(found.splitlines()) == 12, found


def test_light_packages_run_without_jax():
    """Not only by source: importing them leaves JAX out of the interpreter."""
    import os
    import subprocess
    import sys

    names = [f"{PACKAGE}.{name}" for name in sorted(LIGHT)
             if (ROOT / f"{name.replace('.', '/')}.py").exists() or (ROOT / name).is_dir()]
    names += [name for _, name in modules(ROOT) if name.startswith(f"{PACKAGE}.processing.")]
    code = (f"import importlib, sys\nfor n in {names!r}: importlib.import_module(n)\n"
            f"bad = sorted(set(sys.modules) & {HEAVY!r})\nassert not bad, bad")
    env = {**os.environ, "PYTHONPATH": str(ROOT.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
