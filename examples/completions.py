"""Text completion: the completions endpoint."""

import os

from openai import OpenAI

client = OpenAI(base_url=os.getenv("FORMGATE_URL", "http://127.0.0.1:8000") + "/v1", api_key="none")
model = client.models.list().data[0].id

completion = client.completions.create(
    model=model, prompt="San Francisco is a", max_tokens=16, temperature=0
)
print("San Francisco is a" + completion.choices[0].text)
