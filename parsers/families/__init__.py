"""The formats of model families, by name, and how one is chosen for a model."""
