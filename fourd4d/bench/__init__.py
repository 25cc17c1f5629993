"""Benchmarks. ``python -m fourd4d.bench NAME [--json FILE]``."""
