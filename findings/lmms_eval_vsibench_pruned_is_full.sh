#!/usr/bin/env bash
# lmms-eval 0.7.3, task "vsibench_pruned".
# Expected: it evaluates the pruned split of VSI-Bench, as "vsibench_debiased" does the debiased one.
# Seen: its YAML names the data set "full" and filters nothing, so it scores the whole benchmark.
# Hurt: whoever reports "VSI-Bench pruned" from it reports the full set's number.
# Exits 0 while that is so, 1 when it changed.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pyyaml
"$folder/venv/bin/pip" install --quiet --no-deps lmms-eval==0.7.3
"$folder/venv/bin/python" - <<'PY'
import importlib.metadata
import sys
from pathlib import Path

import yaml


class Loader(yaml.SafeLoader):
    """Tags such as !function are names here."""


Loader.add_multi_constructor("!", lambda loader, tag, node: str(node.value))
print("lmms-eval", importlib.metadata.version("lmms-eval"))
files = importlib.metadata.files("lmms-eval")
folder = next(Path(f.locate()).parent for f in files if str(f).endswith("vsibench/vsibench.yaml"))
shared = yaml.load((folder / "_default_template_yaml").read_text(), Loader)
code = (folder / "utils.py").read_text()
tasks = {}
for name in ("vsibench", "vsibench_debiased", "vsibench_pruned"):
    task = shared | yaml.load((folder / f"{name}.yaml").read_text(), Loader)
    tasks[name] = (task["dataset_name"], task["test_split"], task["process_docs"])
    print(f"  {name}: dataset_name {task['dataset_name']}, rows through {task['process_docs']}")
filters = "pruned" in code
print("  utils.py speaks of 'pruned':", filters)
print("expected: vsibench_pruned reads other rows than vsibench")
same = tasks["vsibench_pruned"] == tasks["vsibench"] != tasks["vsibench_debiased"] and not filters
print("seen:", "they read the same rows" if same else "they differ now")
sys.exit(0 if same else 1)
PY
