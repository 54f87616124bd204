"""A streamed chat completion, printed as it arrives."""

import os

from openai import OpenAI

client = OpenAI(base_url=os.getenv("FORMGATE_URL", "http://127.0.0.1:8000") + "/v1", api_key="none")
model = client.models.list().data[0].id

stream = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": "Write a short poem about spring."}],
    temperature=0,
    max_tokens=200,
    stream=True,
    stream_options={"include_usage": True},
)
usage = None
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    usage = chunk.usage or usage
print()
if usage is not None:
    print(f"{usage.prompt_tokens} tokens in, {usage.completion_tokens} out")
