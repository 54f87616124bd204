"""The answer tree: what a model may write, as plain dicts."""
