"""From a model folder to a filled model."""
