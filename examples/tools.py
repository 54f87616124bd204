"""A tool call with `tool_choice="auto"`, its result, and the answer that uses it."""

import json
import os

from openai import OpenAI

client = OpenAI(base_url=os.getenv("FORMGATE_URL", "http://127.0.0.1:8000") + "/v1", api_key="none")
model = client.models.list().data[0].id


def get_weather(city: str, unit: str = "celsius") -> str:
    degrees = 22 if unit == "celsius" else 72
    return json.dumps({"city": city, "temperature": degrees, "unit": unit, "sky": "sunny"})


tools = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the current weather in a city",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "The name of the city"},
                    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                },
                "required": ["city"],
            },
        },
    }
]

for prompt in ("What is the weather in Paris?", "巴黎的天气怎么样？"):
    messages = [{"role": "user", "content": prompt}]
    first = client.chat.completions.create(
        model=model, messages=messages, tools=tools, tool_choice="auto", temperature=0
    )
    message = first.choices[0].message
    messages.append(message.model_dump(exclude_none=True))
    for call in message.tool_calls or []:
        arguments = json.loads(call.function.arguments)
        print(f"> {prompt}\n{call.function.name}({arguments})")
        messages.append(
            {"role": "tool", "tool_call_id": call.id, "content": get_weather(**arguments)}
        )
    answer = client.chat.completions.create(
        model=model, messages=messages, tools=tools, temperature=0, max_tokens=200
    )
    print(f"{answer.choices[0].message.content}\n")
