"""Loads a model from its folder: config, dtype, weights, EOS tokens."""
