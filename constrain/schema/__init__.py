"""A schema as it was written: dialect, references, keywords, and the checks of its shape."""
