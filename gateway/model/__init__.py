"""The gateway's view of a model: tokenizer, chat template, prompts, sampling defaults."""
