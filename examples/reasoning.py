"""Reasoning, separated from the answer."""

import os

from openai import OpenAI

client = OpenAI(base_url=os.getenv("FORMGATE_URL", "http://127.0.0.1:8000") + "/v1", api_key="none")
model = client.models.list().data[0].id

for prompt in (
    "A train travels 120 km in 1.5 hours. What is its average speed?",
    "一列火车1.5小时行驶120公里，它的平均速度是多少？",
):
    completion = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": prompt}],
        temperature=0,
        max_tokens=500,
        extra_body={"chat_template_kwargs": {"enable_thinking": True}},
    )
    message = completion.choices[0].message
    print(f"> {prompt}\n(thinks) {message.reasoning_content}\n{message.content}\n")
