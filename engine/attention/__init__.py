"""Attention over the paged KV cache: layer, step metadata, cache layout, kernel warm-up."""
