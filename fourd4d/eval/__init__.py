"""Evaluation. Benchmark items in; statistics, a per-item log and a page out."""

from fourd4d.eval.items import Item, ItemLog, read_items
from fourd4d.eval.runner import evaluate
from fourd4d.eval.spec import EvalSpec, Subject
from fourd4d.eval.statistics import paired_bootstrap, wilson

__all__ = [
    "EvalSpec", "Item", "ItemLog", "Subject", "evaluate", "paired_bootstrap", "read_items",
    "wilson",
]
