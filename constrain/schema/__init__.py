"""A schema as it was written: its dialect, references, keywords, and what judges it."""
