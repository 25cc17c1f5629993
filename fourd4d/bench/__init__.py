"""Floor 6: benchmarks. ``python -m fourd4d.bench NAME [--json FILE]``."""
