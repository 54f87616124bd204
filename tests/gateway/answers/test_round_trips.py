"""Conversations as clients send them back (calls, results, reasoning, content as parts, a message
to be continued), written by templates of each kind as transformers writes them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import transformers

from formgate import embedded
from formgate.gateway.errors import ApiError
from formgate.gateway.model.chat_template import ChatTemplate
from formgate.gateway.model.prompts import conversation_of, encode_conversation
from formgate.gateway.model.text_bound import TextBound
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.model.tokenizer_folder import load_tokenizer
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.parse import parse_object

# Takes arguments as an object and reasoning beside the content, as Qwen3 does.
CHATML = """
{%- if tools %}<|tools|>{% for t in tools %}{{ t | tojson }}
{% endfor %}{% endif %}
{%- for m in messages %}<|{{ m.role }}|>
  {%- if m.reasoning_content %}<think>
{{ m.reasoning_content.strip('\\n') }}
</think>

{% endif %}
  {{- m.content or '' }}
  {%- for c in m.tool_calls or [] %}
<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>
  {%- endfor %}<|end|>
{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}
"""
# Takes arguments as text, and cuts the reasoning out of the content, as DeepSeek's does.
DEEPSEEK = """
{{- bos_token }}
{%- for m in messages %}
  {%- if m.role == 'system' %}{{ m.content }}
  {%- elif m.role == 'user' %}<|User|>{{ m.content }}
  {%- elif m.role == 'tool' %}<|Result|>{{ m.content }}
  {%- elif not m.content %}<|Assistant|>
    {%- for c in m.tool_calls %}{{ c.function.name }}
```json
{{ c.function.arguments }}
```
    {%- endfor %}</s>
  {%- else %}
    {%- set said = m.content %}
    {%- if '</think>' in said %}{% set said = said.split('</think>')[-1] %}{% endif %}
    {{- '<|Assistant|>' + said }}</s>
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|Assistant|><think>
{% endif %}
"""
# Takes content as parts only.
PARTS = """
{%- for m in messages %}[{{ m.role }}]
  {%- for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}
  {%- for c in m.tool_calls or [] %}[TOOL_CALLS]{{ c.function | tojson }}{% endfor %}</s>
{%- endfor %}
{%- if add_generation_prompt %}[assistant]{% endif %}
"""

ARGUMENTS = {"city": "Zürich", "days": [1, 2], "note": 'a "b" <c> & d'}
TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "Does <it> & more",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}

BOUND = TextBound(1_000_000)


@dataclass(frozen=True)
class Family:
    template: str
    arguments: Callable[[dict[str, Any]], Any] = lambda value: value
    content: Callable[[str], Any] = lambda text: text


FAMILIES = {
    "embedded": Family((embedded.path() / "chat_template.jinja").read_text()),
    "chatml": Family(CHATML),
    "deepseek": Family(DEEPSEEK, arguments=lambda value: json.dumps(value, ensure_ascii=False)),
    "parts": Family(PARTS, content=lambda text: [{"type": "text", "text": text}]),
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(embedded.path())


@pytest.fixture(scope="module")
def theirs() -> Any:
    return transformers.AutoTokenizer.from_pretrained(str(embedded.path()))


def ours(tokenizer: Tokenizer, family: Family, body: dict[str, Any]) -> list[int]:
    request = parse_object(ChatCompletionRequest, body)
    template = ChatTemplate(family.template, tokenizer.named_tokens)
    return encode_conversation(conversation_of(request, {}), tokenizer, template, BOUND)


def wanted(theirs: Any, family: Family, messages: list[Any], **options: Any) -> list[int]:
    text = theirs.apply_chat_template(
        messages, chat_template=family.template, tokenize=False, **options
    )
    ids: list[int] = theirs(text, add_special_tokens=False)["input_ids"]
    return ids


def call(arguments: Any) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    return {"id": "abcDEF123", "type": "function", "function": function}


@pytest.mark.parametrize("spelling", ["text", "object"])
@pytest.mark.parametrize("parts", [False, True], ids=["string", "parts"])
@pytest.mark.parametrize("name", FAMILIES)
def test_calls_and_results(
    name: str, parts: bool, spelling: str, tokenizer: Tokenizer, theirs: Any
) -> None:
    family = FAMILIES[name]

    def said(text: str) -> Any:
        return [{"type": "text", "text": text}] if parts else text

    sent = json.dumps(ARGUMENTS, ensure_ascii=False) if spelling == "text" else ARGUMENTS
    made = ours(
        tokenizer,
        family,
        {
            "messages": [
                {"role": "system", "content": said("Be brief.")},
                {"role": "user", "content": said("你好 & <b>")},
                {"role": "assistant", "content": None, "tool_calls": [call(sent), call(sent)]},
                {"role": "tool", "tool_call_id": "abcDEF123", "content": said("22 °C")},
                {"role": "assistant", "content": said("Warm.")},
                {"role": "user", "content": said("And now?")},
            ],
            "tools": [TOOL],
        },
    )
    past = call(family.arguments(ARGUMENTS))
    messages = [
        {"role": "system", "content": family.content("Be brief.")},
        {"role": "user", "content": family.content("你好 & <b>")},
        {"role": "assistant", "content": None, "tool_calls": [past, past]},
        {"role": "tool", "tool_call_id": "abcDEF123", "content": family.content("22 °C")},
        {"role": "assistant", "content": family.content("Warm.")},
        {"role": "user", "content": family.content("And now?")},
    ]
    if name == "parts":
        messages[2]["content"] = []
    assert made == wanted(theirs, family, messages, tools=[TOOL], add_generation_prompt=True)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "content"])
@pytest.mark.parametrize("name", ["embedded", "chatml", "deepseek"])
def test_reasoning_comes_back(name: str, field: str, tokenizer: Tokenizer, theirs: Any) -> None:
    """Beside the content under either name, or in it with its markers, as a client without a
    reasoning field sends it."""
    family = FAMILIES[name]
    answer: dict[str, Any] = {"role": "assistant", "content": "Warm."}
    canonical = dict(answer)
    if field == "content":
        answer["content"] = canonical["content"] = "<think>\nhm\n</think>\n\nWarm."
    else:
        answer[field] = "hm"
        canonical["reasoning_content"] = "hm"
    end = [{"role": "user", "content": "And now?"}]
    start = [{"role": "user", "content": "Paris?"}]
    made = ours(tokenizer, family, {"messages": [*start, answer, *end]})
    messages = [*start, canonical, *end]
    assert made == wanted(theirs, family, messages, add_generation_prompt=True)


@pytest.mark.parametrize("text", ["It is ", "Ends with a word", "é🙂", "{"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_message_is_continued(name: str, text: str, tokenizer: Tokenizer, theirs: Any) -> None:
    family = FAMILIES[name]
    made = ours(
        tokenizer,
        family,
        {
            "messages": [
                {"role": "user", "content": "Paris?"},
                {"role": "assistant", "content": text},
            ],
            "continue_final_message": True,
        },
    )
    messages = [
        {"role": "user", "content": family.content("Paris?")},
        {"role": "assistant", "content": family.content(text)},
    ]
    # transformers trims what it continues; the model must go on from what was written.
    trimmed = wanted(theirs, family, messages, continue_final_message=True)
    assert theirs.decode(made).rstrip() == theirs.decode(trimmed).rstrip()
    assert tokenizer.decode(made).endswith(text)
    assert made[-1] not in tokenizer.eos_ids


@pytest.mark.parametrize("content", [None, "Let me see."])
def test_a_message_with_calls_cannot_be_continued(content: Any, tokenizer: Tokenizer) -> None:
    past = {"role": "assistant", "content": content, "tool_calls": [call("{}")]}
    body = {"messages": [past], "continue_final_message": True}
    with pytest.raises(ApiError) as refused:
        ours(tokenizer, FAMILIES["embedded"], body)
    assert refused.value.status == 400
    assert refused.value.param == "continue_final_message"


def test_an_empty_message_can_be_continued(tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None}]
    for family in FAMILIES.values():
        made = ours(tokenizer, family, {"messages": messages, "continue_final_message": True})
        assert made[-1] not in tokenizer.eos_ids


def test_an_answer_of_ours_comes_back_as_it_was_made(tokenizer: Tokenizer) -> None:
    """The ids of a call in the next prompt are those of the generated call: its cache is hit."""
    family = FAMILIES["embedded"]
    generated = '[TOOL_CALLS] [{"name": "f", "arguments": {"city": "Zürich", "days": [1, 2]}}]</s>'
    first = {"role": "user", "content": "Paris?"}
    sent = call('{"city": "Zürich", "days": [1, 2]}')
    before = ours(tokenizer, family, {"messages": [first]})
    after = ours(
        tokenizer,
        family,
        {
            "messages": [
                first,
                {"role": "assistant", "content": None, "tool_calls": [sent]},
                {"role": "tool", "tool_call_id": "abcDEF123", "content": "22"},
            ]
        },
    )
    assert after[: len(before)] == before
    ids = tokenizer.encode(generated, add_special_tokens=False)
    assert after[len(before) : len(before) + len(ids)] == ids
