"""Plain chat through the OpenAI SDK, in English and in Chinese."""

import os

from openai import OpenAI

client = OpenAI(base_url=os.getenv("FORMGATE_URL", "http://127.0.0.1:8000") + "/v1", api_key="none")
model = client.models.list().data[0].id

for prompt in ("Hello! Who are you?", "你好，请介绍一下你自己。", "What is the capital of France?"):
    completion = client.chat.completions.create(
        model=model,
        messages=[
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": prompt},
        ],
        temperature=0,
        max_tokens=200,
    )
    print(f"> {prompt}\n{completion.choices[0].message.content}\n")
