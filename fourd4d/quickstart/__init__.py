"""The whole chain, small: ``python -m fourd4d.quickstart``."""
