"""OpenAI's Responses and Anthropic's Messages: chat requests in, events out of their steps."""
