"""The Python API without a server: output types in, values out."""

from enum import Enum
from typing import Literal

from outlines import types
from pydantic import BaseModel

from formgate.gateway.library.llm import LLM


class Person(BaseModel):
    name: str
    age: int
    occupation: str


class Feeling(Enum):
    GOOD = "positive"
    BAD = "negative"


def get_weather(city: str, unit: Literal["celsius", "fahrenheit"] = "celsius") -> str:
    """Get the current weather in a city."""
    return f"22 degrees {unit} in {city}"


with LLM() as llm:
    sentences = [
        "Extract the person's information: John Smith, 30, software engineer",
        "请提取人物信息：张伟，30岁，软件工程师",
    ]
    for result in llm.chat(sentences, Person, temperature=0):
        print(repr(result.value), result.usage.completion_tokens, "tokens")

    feeling = llm.chat("Is this review positive or negative? 'I love it!'", Feeling)
    print(feeling.value)

    code = llm.generate("Your code is ", types.digit.exactly(3) + "-" + types.either("A", "B"))
    print("code", code.value)

    question = [{"role": "user", "content": "What is the weather in Paris?"}]
    asked = llm.chat(question, tools=[get_weather], temperature=0)
    question.append(asked.message)
    for call in asked.tool_calls:
        print(call.name, call.arguments)
        weather = get_weather(**call.arguments)
        question.append({"role": "tool", "tool_call_id": call.id, "content": weather})
    print(llm.chat(question, tools=[get_weather], temperature=0).text)
