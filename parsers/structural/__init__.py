"""Structural tags, in the forms that vLLM takes, to answer trees."""
