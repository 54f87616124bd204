"""The answer tree: the grammar of a model's answer, as plain dicts."""
