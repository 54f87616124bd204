"""Samples tokens from logits: masks, penalties, the draw, logprobs."""
