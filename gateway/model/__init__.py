"""What the gateway knows of a model: tokenizer, chat template, prompts, sampling defaults."""
