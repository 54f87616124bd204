"""The served model's tokenizer, chat template, output formats and defaults, loaded at start."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from formgate.gateway.model.chat_template import ChatTemplate, ChatTemplateError
from formgate.gateway.model.conversation_rewriting import renderer_of
from formgate.gateway.model.sampling import SamplingDefaults, load_sampling_defaults
from formgate.gateway.model.templates.choosing import FormatChoice, choose_format, choose_reasoning
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.model.tokenizer_folder import load_tokenizer
from formgate.gateway.server_config import ServerConfig
from formgate.parsers.families.registry import (
    FORMATS,
    REASONING,
    find_reasoning_format,
    find_tool_format,
)
from formgate.parsers.formats.format import Format, ReasoningFormat, custom_reasoning
from formgate.parsers.text.symbols import text_of

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class ModelProfile:
    name: str  # the model's name in responses, if the request has none
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    chat_template_kwargs: Mapping[str, Any]
    tool_format: Format | None
    reasoning_format: ReasoningFormat | None
    sampling_defaults: SamplingDefaults
    max_logprobs: int = 20
    auto_tool_choice: bool = True
    strict_tools: bool = False
    allow_truncated_json: bool = False
    show_cached_tokens: bool = True
    fingerprint: str = "fp_formgate"


def load_model_profile(
    model_dir: Path,
    config: ServerConfig,
    *,
    name: str,
    max_logprobs: int,
    tokenizer_dir: Path | None = None,
    tokenizer: Tokenizer | None = None,
) -> ModelProfile:
    """Raises OSError or ValueError with a one-line message."""
    tokenizer = tokenizer or load_tokenizer(tokenizer_dir or model_dir)
    source = _template_source(config.chat_template, tokenizer)
    model = _read_config(model_dir)
    architecture = read_architecture(model_dir)
    template = None if source is None else ChatTemplate(source, tokenizer.named_tokens)
    reasoning = (
        _reasoning_format(config.reasoning_parser)
        if config.reasoning_parser
        else choose_reasoning(template, source, architecture, tokenizer.special_ids)
    )
    tool_format = _tool_format(
        config.tool_call_parser,
        choose_format(template, source, architecture, tokenizer.special_ids, reasoning),
        tokenizer,
    )
    if template is not None:
        template.tool_format = tool_format
        renderer_of(template)  # probes the template, which no request has to wait for
    if reasoning is not None and template is not None and _prompt_decides(template, reasoning):
        reasoning = dataclasses.replace(reasoning, may_open=False)
    return ModelProfile(
        name=name,
        tokenizer=tokenizer,
        chat_template=template,
        chat_template_kwargs=dict(config.default_chat_template_kwargs),
        tool_format=tool_format,
        reasoning_format=reasoning,
        sampling_defaults=load_sampling_defaults(config.generation_config, model_dir),
        max_logprobs=max_logprobs,
        auto_tool_choice=config.enable_auto_tool_choice,
        strict_tools=config.strict_tools,
        allow_truncated_json=config.allow_truncated_json,
        show_cached_tokens=config.enable_prompt_tokens_details,
        fingerprint=_fingerprint(model, name),
    )


def _tool_format(given: str | None, choice: FormatChoice, tokenizer: Tokenizer) -> Format:
    """The format that the operator names, or the one that the template shows."""
    chosen = choice.format.name
    if given is not None:
        known = find_tool_format(given, tokenizer.special_ids)
        format = _known(known, "--tool-call-parser", given, FORMATS)
        if choice.confirmed and format != choice.format:
            logger.warning(
                "--tool-call-parser %s is used, but the chat template shows the format %s.",
                given,
                chosen,
            )
        return format
    log = logger.warning if choice.origin == "generic" else logger.info
    log("The format of tool calls is %s (%s): %s.", chosen, choice.origin, choice.reason)
    return choice.format


def _prompt_decides(template: ChatTemplate, reasoning: ReasoningFormat) -> bool:
    """True if the template opens the reasoning exactly when thinking is enabled: a prompt that
    leaves it closed then means an answer without reasoning.
    """
    text: object = "text"
    if template.wants_parts:
        text = [{"type": "text", "text": "text"}]
    opening = text_of(reasoning.open)

    def opens(*, thinking: bool) -> bool:
        prompt = template.render(
            [{"role": "user", "content": text}],
            add_generation_prompt=True,
            kwargs={"enable_thinking": thinking},
        )
        return prompt.rstrip().endswith(opening)

    try:
        return opens(thinking=True) and not opens(thinking=False)
    except ChatTemplateError:
        return False


def _template_source(given: str | None, tokenizer: Tokenizer) -> str | None:
    if given is None:
        return tokenizer.chat_templates.get("default")
    if "{" in given or "\n" in given:  # in every template, in no path
        return given
    path = Path(given)
    if not path.is_file():
        raise FileNotFoundError(f"the chat template {given} does not exist")
    return path.read_text(encoding="utf-8")


def _reasoning_format(name: str) -> ReasoningFormat:
    """The format of this name, or with these two markers, separated by a comma."""
    opening, comma, closing = name.partition(",")
    if comma:
        return custom_reasoning(opening.strip(), closing.strip())
    return _known(find_reasoning_format(name), "--reasoning-parser", name, REASONING)


def _known(found: T | None, flag: str, name: str, names: Iterable[str]) -> T:
    if found is None:
        raise ValueError(f"{flag} {name} is not known; there are: {', '.join(sorted(names))}")
    return found


def _read_config(model_dir: Path) -> dict[str, Any]:
    path = model_dir / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return config if isinstance(config, dict) else {}


def read_architecture(model_dir: Path) -> str:
    """The model's architecture, as its config.json says; empty if it says none."""
    return str(next(iter(_read_config(model_dir).get("architectures") or ()), ""))


def _fingerprint(model: Mapping[str, Any], name: str) -> str:
    """Changes with the model and the server version: either may change the output of a seed."""
    parts = [name, importlib.metadata.version("formgate"), model]
    return "fp_" + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:10]
