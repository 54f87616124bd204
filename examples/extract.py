"""Extract an object from a sentence: `response_format` with a JSON schema, English and Chinese."""

import os

from openai import OpenAI
from pydantic import BaseModel

client = OpenAI(base_url=os.getenv("FORMGATE_URL", "http://127.0.0.1:8000") + "/v1", api_key="none")
model = client.models.list().data[0].id


class Person(BaseModel):
    name: str
    age: int
    occupation: str


for prompt in (
    "Extract the person's information: John Smith, 30, software engineer",
    "请提取人物信息：张伟，30岁，软件工程师",
):
    completion = client.chat.completions.parse(
        model=model,
        messages=[{"role": "user", "content": prompt}],
        response_format=Person,
        temperature=0,
    )
    print(f"> {prompt}\n{completion.choices[0].message.parsed!r}\n")
