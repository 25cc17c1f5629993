"""Commands on finished datasets."""
