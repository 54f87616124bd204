"""OpenAI's Responses and Anthropic's Messages, said in terms of a chat completion."""
