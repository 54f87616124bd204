"""The formats of model families by name, and their detection for a model."""
