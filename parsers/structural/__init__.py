"""Converts structural tags, in both of vLLM's forms, to answer trees."""
