"""The choice of a model's format: what its template writes decides, and words in it do not."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from formgate.gateway.model.chat_template import ChatTemplate
from formgate.gateway.model.model_profile import load_model_profile
from formgate.gateway.model.templates.choosing import FormatChoice, choose_format, choose_reasoning
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.server_config import ServerConfig
from formgate.parsers.derivation.atoms import token_like
from formgate.parsers.families.reasoning import DEEPSEEK_R1
from formgate.parsers.families.registry import FORMATS, detect_tool_format
from formgate.parsers.formats.format import Format
from formgate.parsers.stream import OutputParser
from formgate.parsers.text.events import ContentDelta, Piece, ToolCallStart
from formgate.parsers.text.symbols import text_of

FRAME = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content or '' }}
{%- for call in message.tool_calls or [] -%}CALL{%- endfor -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""
OBJECT = '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
HERMES = "{{ '\\n<tool_call>\\n' }}" + OBJECT + "{{ '\\n</tool_call>' }}"
# Its words are those of Qwen3-Coder, its calls are not.
FUNCTION = "<function={{ call.function.name }}>{{ call.function.arguments | tojson }}</function>"


def choice_of(call: str, *tokens: str, architecture: str = "") -> FormatChoice:
    source = FRAME.replace("CALL", call)
    special_ids = {text: 100 + i for i, text in enumerate(("<|im_start|>", "<|im_end|>", *tokens))}
    return choose_format(ChatTemplate(source, {}), source, architecture, special_ids, None)


def test_a_known_format_that_writes_the_same_is_confirmed() -> None:
    choice = choice_of(HERMES, "<tool_call>", "</tool_call>")
    assert choice.origin == "known"
    assert choice.format is FORMATS["hermes"]
    assert choice.report is not None
    assert {outcome.state for outcome in choice.report.outcomes} == {"ok"}


def test_a_template_with_the_words_of_another_family_is_not_taken_for_it() -> None:
    assert detect_tool_format(FRAME.replace("CALL", FUNCTION), "", []) == "qwen3_coder"
    choice = choice_of(FUNCTION)
    assert choice.origin == "derived"
    assert choice.confirmed
    assert choice.format.marker == ("<function=",)


def test_another_known_format_is_tried_where_the_words_mislead() -> None:
    choice = choice_of("{# <arg_key> #}" + HERMES)
    assert detect_tool_format(FRAME.replace("CALL", "<arg_key>"), "", []) == "glm45"
    assert choice.format is FORMATS["hermes"]


def test_a_format_that_reads_but_spaces_otherwise_gives_way() -> None:
    """Its mask would make the model write what it has never seen."""
    choice = choice_of("<tool_call>" + OBJECT + "</tool_call>", "<tool_call>", "</tool_call>")
    assert choice.origin == "derived"
    assert choice.format.before == ()


def test_calls_of_a_template_that_leaves_them_out_are_unconfirmed_or_generic() -> None:
    assert choice_of("").origin == "generic"
    known = choice_of("{# <|tool_call_start|> #}", "<|tool_call_start|>")
    assert (known.format.name, known.origin, known.confirmed) == ("lfm2", "unconfirmed", False)


def test_calls_in_a_shape_that_no_format_has_are_generic_and_not_confirmed() -> None:
    choice = choice_of("{{ call.function.arguments | tojson }} | {{ call.function.name }}")
    assert (choice.format.name, choice.origin, choice.confirmed) == ("generic", "generic", False)
    assert "no format could be derived" in choice.reason


def test_a_thought_before_the_calls_comes_back() -> None:
    thinks = "{%- if message.role == 'assistant' -%}<think>"
    thinks += "{{ message.reasoning_content or '' }}</think>{%- endif -%}"
    said = "{{ message.content or '' }}"
    source = FRAME.replace("CALL", HERMES).replace(said, thinks + said)
    choice = choose_format(ChatTemplate(source, {}), source, "", {}, DEEPSEEK_R1)
    assert choice.report is not None
    thought = next(each for each in choice.report.outcomes if "thought" in each.check)
    assert thought.state == "ok"
    assert choice.format is FORMATS["hermes"]


THOUGHTFUL = """\
{%- for message in messages -%}
<|turn|>{{ message.role }}
{% if message.reasoning_content %}OPEN{{ message.reasoning_content }}CLOSE{% endif -%}
{{ message.content or '' }}<|end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|turn|>assistant
PROMPT{%- endif -%}"""


@pytest.mark.parametrize(
    ("opening", "closing", "prompt", "wanted"),
    [
        ("<think>\n", "\n</think>\n\n", "", ("deepseek_r1", "<think>", "</think>")),
        ("<rock:think>", "</rock:think>\n", "", ("derived", "<rock:think>", "</rock:think>")),
        (
            "<|START_THINKING|>", "<|END_THINKING|>", "<|START_THINKING|>",
            ("derived", "<|START_THINKING|>", "<|END_THINKING|>"),
        ),
        (
            "<|channel>thought\n", "<channel|>", "",
            ("derived", "<|channel>thought", "<channel|>"),
        ),
        (
            "", "\n[FINAL ANSWER]\n", "My steps:\n",
            ("derived", "My steps:", "[FINAL ANSWER]"),
        ),
        ("", "", "", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "text"])
def test_the_region_of_thoughts_is_the_templates(
    opening: str,
    closing: str,
    prompt: str,
    wanted: tuple[str, str, str] | None,
    tokens: bool,
) -> None:
    source = THOUGHTFUL.replace("OPEN", opening).replace("CLOSE", closing)
    source = source.replace("PROMPT", f"{{{{ {prompt!r} }}}}")
    special_ids = {text: 300 + i for i, text in enumerate(token_like(source))} if tokens else {}
    reasoning = choose_reasoning(ChatTemplate(source, {}), source, "", special_ids)
    if wanted is None:
        assert reasoning is None
        return
    assert reasoning is not None
    assert (reasoning.name, text_of(reasoning.open), text_of(reasoning.close)) == wanted


def profile_logs(
    call: str,
    model_dir: Path,
    tokenizer: Tokenizer,
    caplog: pytest.LogCaptureFixture,
    parser: str | None = None,
) -> list[tuple[int, str]]:
    given = replace(tokenizer, chat_templates={"default": FRAME.replace("CALL", call)})
    config = ServerConfig(tool_call_parser=parser)
    with caplog.at_level(logging.INFO):
        load_model_profile(model_dir, config, name="x", max_logprobs=5, tokenizer=given)
    return [(record.levelno, record.getMessage()) for record in caplog.records]


ANNOUNCED = """\
{%- for message in messages -%}
<|turn|>{{ message.role }}
{% if message.tool_calls -%}
CALLS
{%- elif message.role == 'assistant' -%}
LEAD{{ message.content }}TAIL
{%- else -%}{{ message.content }}{%- endif -%}
<|end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|turn|>assistant
PROMPT{%- endif -%}"""
ARGUMENTS = "{{ call.function.arguments | tojson }}"


def announced(call: str, lead: str, tail: str, prompt: str) -> tuple[FormatChoice, dict[str, int]]:
    calls = f"{{%- for call in message.tool_calls -%}}{call}{{%- endfor -%}}"
    source = ANNOUNCED.replace("CALLS", calls).replace("LEAD", lead).replace("TAIL", tail)
    source = source.replace("PROMPT", prompt)
    special_ids = {text: 300 + i for i, text in enumerate(token_like(source))}
    return choose_format(ChatTemplate(source, {}), source, "", special_ids, None), special_ids


def read(format: Format, special_ids: dict[str, int], pieces: list[Piece]) -> tuple[str, list[str]]:
    """(content, names of the calls)"""
    parser = OutputParser(
        format, None, tools_enabled=True, reasoning_state="none", special_ids=special_ids
    )
    deltas = [*(delta for piece in pieces for delta in parser.feed([piece])), *parser.finish()]
    content = "".join(delta.text for delta in deltas if isinstance(delta, ContentDelta))
    return content, [delta.name for delta in deltas if isinstance(delta, ToolCallStart)]


def test_tokens_that_announce_content_are_framing() -> None:
    call = "<|ACTION|>{{ call.function.name }}<|ARGS|>" + ARGUMENTS + "<|END_ACTION|>"
    choice, ids = announced(call, "<|SAY|>", "<|END_SAY|>", "")
    assert choice.origin == "derived"
    assert text_of(choice.format.content_opening) == "<|SAY|>"
    said = [
        Piece("<|SAY|>", ids["<|SAY|>"]),
        Piece("Hi."),
        Piece("<|END_SAY|>", ids["<|END_SAY|>"]),
    ]
    assert read(choice.format, ids, said) == ("Hi.", [])


def test_a_prompt_may_hold_the_first_marker() -> None:
    """As functionary's does: each message names its recipient, and `all` is the user."""
    call = "{{ '>>>' + call.function.name + '\\n' }}" + ARGUMENTS
    choice, ids = announced(call, "{{ '>>>all\\n' }}", "", ">>>")
    assert choice.origin == "derived"
    assert choice.format.bare
    assert read(choice.format, ids, [Piece("all\n"), Piece("Hi.")]) == ("Hi.", [])
    calls = [Piece('get_weather\n{"city": "Rome"}>>>add\n{"a": 1}')]
    assert read(choice.format, ids, calls) == ("", ["get_weather", "add"])


def test_the_log_says_which_format_is_used(
    model_dir: Path, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    (level, said), *_ = profile_logs(HERMES, model_dir, tokenizer, caplog)
    assert level == logging.INFO
    assert said.startswith("The format of tool calls is hermes (known): ")


def test_generic_is_never_used_in_silence(
    model_dir: Path, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    (level, said), *_ = profile_logs("", model_dir, tokenizer, caplog)
    assert level == logging.WARNING
    assert said.startswith("The format of tool calls is generic (generic): the template leaves")


def test_a_parser_that_the_template_contradicts_is_a_warning(
    model_dir: Path, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    (level, said), *_ = profile_logs(FUNCTION, model_dir, tokenizer, caplog, "hermes")
    assert level == logging.WARNING
    assert said == (
        "--tool-call-parser hermes is used, but the chat template shows the format derived."
    )
