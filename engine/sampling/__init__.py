"""From logits to tokens: masks, penalties, the draw, logprobs."""
