"""Configs: flags, dataclasses from sections, the body of an entry point."""
