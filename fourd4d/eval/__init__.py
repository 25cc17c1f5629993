"""Evaluation: benchmark items in, statistics, a per-item log and a page out."""
