"""From what a request wants (tools, schema, reasoning) to how its answer is made and read: the
constraint that the engine is given, the parser of what comes out, and the last look at both.
Nothing is admitted whose constraint has not been compiled.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Protocol

import msgspec

from formgate.constrain.errors import ConstraintError
from formgate.constrain.masks.constraint import Constraint, SizedConstraint
from formgate.constrain.masks.thinking import ThinkingBudget
from formgate.gateway.answers.answer_checks import Promise
from formgate.gateway.answers.choice import Choice, ChoiceSettings, Parser
from formgate.gateway.answers.content_nodes import content_node, content_parts
from formgate.gateway.answers.last_validation import LastValidation
from formgate.gateway.answers.reasoning_start import reasoning_start
from formgate.gateway.answers.tool_choice import NO_TOOLS, ToolUse, tool_use
from formgate.gateway.answers.trace import Tracer
from formgate.gateway.errors import ApiError, bad_request
from formgate.gateway.metrics import Metrics
from formgate.gateway.model.model_profile import ModelProfile
from formgate.gateway.model.stop_strings import StopAutomaton, stop_automaton
from formgate.gateway.model.text_threads import LONG_BODY
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.completion import CompletionRequest
from formgate.gateway.protocol.constraints import ContentConstraint, content_constraint
from formgate.gateway.protocol.fields import GenerationRequest
from formgate.parsers.formats.format import ReasoningState, Tool, ToolChoice, UnsupportedArguments
from formgate.parsers.grammar import answer_grammar
from formgate.parsers.stream import OutputParser
from formgate.parsers.structural.fields import StructuralTagError
from formgate.parsers.tree import nodes
from formgate.parsers.tree.nodes import Node

FEW_TOKENS = 256
MANY_TOOLS = 50
LONG_PROMPT = 20_000  # tokens
_MANY = re.compile(r'"min(?:Length|Items|Properties)": [0-9.]{3,}|\{[0-9]{3,}')


async def _nothing() -> None:
    pass


class Compiling(Protocol):
    """What is needed of `CompilePool`."""

    def known(self, task: str, spec_text: str) -> str | None: ...
    async def compiled(self, task: str, spec_text: str) -> str: ...
    async def check(self, task: str, text: str) -> str: ...


@dataclass(frozen=True)
class AnswerPlan:
    constraint: str | None  # for the engine
    settings: ChoiceSettings
    promise: Promise


class AnswerPlanner:
    def __init__(self, profile: ModelProfile, compiling: Compiling, metrics: Metrics) -> None:
        self._profile = profile
        self.last_validation = LastValidation(compiling.check, metrics)
        self._compiling = compiling
        self._metrics = metrics

    async def plan_chat(
        self,
        request: ChatCompletionRequest,
        prompt_token_ids: Sequence[int],
        *,
        max_tokens: int | None = None,
        meanwhile: Callable[[], Awaitable[None]] = _nothing,
    ) -> AnswerPlan:
        """`max_tokens` is what the answer may have; `meanwhile` is called if there is something to
        compile, and all else is well. Raises ApiError 400 for a constraint that cannot be kept.
        """
        profile = self._profile
        content = content_constraint(request)
        node = self._node(content)
        tools = tool_use(request, auto_tool_choice=profile.auto_tool_choice)
        if tools.mode != "none" and profile.tool_format is None:
            raise bad_request(
                "The model has no known format for tool calls. Start the server with "
                "--tool-call-parser.",
                "tools",
                "unsupported_parameter",
            )
        special_ids = profile.tokenizer.special_ids
        # Off the event loop where it takes so long that other streams would notice.
        long = request.num_bytes > LONG_BODY or len(prompt_token_ids) > LONG_PROMPT
        reasoning = partial(reasoning_start, request, prompt_token_ids, profile)
        state = await asyncio.to_thread(reasoning) if long else reasoning()
        grammar = partial(
            answer_grammar,
            profile.tool_format,
            profile.reasoning_format,
            tools=_parser_tools(tools),
            tool_choice=_parser_choice(tools),
            parallel=tools.parallel,
            content=node,
            reasoning_state=state,
            special_ids=special_ids,
            thinking_budget=request.thinking_token_budget,
        )
        try:
            many = len(tools.tools) > MANY_TOOLS
            tree = await asyncio.to_thread(grammar) if many else grammar()
        except UnsupportedArguments as error:
            # The family's own syntax for calls cannot carry these tools.
            self._metrics.schema_refused(error.keyword)
            raise bad_request(str(error), error.pointer, "unsupported_schema") from error
        constraint = None
        if tree is not None:
            constraint = await self._admit(
                tree,
                _parts(content, node, tools),
                budget=_budget(request, max_tokens),
                meanwhile=meanwhile,
            )
            thinking = self._thinking_budget(request, state)
            constraint = msgspec.structs.replace(constraint, thinking=thinking)
        if request.thinking_token_budget == 0 and state == "optional":
            state = "none"
        if constraint is None:
            _refuse_trace(request)
        parses = tools.mode != "none" or state in ("open", "optional")
        return AnswerPlan(
            constraint=constraint.dumps() if constraint is not None else None,
            settings=ChoiceSettings(
                tokenizer=profile.tokenizer,
                new_parser=(
                    self._parser_factory(tools, state, structured_content=content is not None)
                    if parses
                    else None
                ),
                may_reason=state in ("open", "optional"),
                stops=await stop_automaton(request.stops),
                include_stop=request.include_stop_str_in_output,
                skip_special_tokens=request.skip_special_tokens,
                at_start=content is None and not request.continue_final_message,
                calls_end_with_stop=tools.named,
                new_tracer=self._tracer_factory(request, None if tools.tools else content),
                constraint_param=_constraint_param(content, tools),
            ),
            promise=Promise(content, tools),
        )

    def _thinking_budget(
        self, request: ChatCompletionRequest, state: ReasoningState
    ) -> ThinkingBudget | None:
        reasoning, tokens = self._profile.reasoning_format, request.thinking_token_budget
        if reasoning is None or not tokens or state not in ("open", "optional"):
            return None
        opening, closing = reasoning.written(self._profile.tokenizer.special_ids)
        return ThinkingBudget(tokens, () if state == "open" else opening, closing)

    async def plan_completion(
        self,
        request: CompletionRequest,
        *,
        drop_tokens: bool = False,
        max_tokens: int | None = None,
        meanwhile: Callable[[], Awaitable[None]] = _nothing,
    ) -> AnswerPlan:
        """As `plan_chat`."""
        content = content_constraint(request)
        node = self._node(content)
        constraint = None
        if node is None:
            _refuse_trace(request)
        else:
            constraint = await self._admit(
                node,
                _parts(content, node, NO_TOOLS),
                budget=_budget(request, max_tokens),
                meanwhile=meanwhile,
            )
        return AnswerPlan(
            constraint=constraint.dumps() if constraint is not None else None,
            settings=self._plain_settings(
                request, content, await stop_automaton(request.stops), drop_tokens=drop_tokens
            ),
            promise=Promise(content),
        )

    def validate(self, plan: AnswerPlan, choice: Choice) -> None:
        """The last look at a finished choice, for which nobody waits."""
        if plan.constraint is not None and choice.whole:
            self.last_validation.begin(plan.promise, choice.fold)

    def ended(self, choices: Sequence[Choice]) -> None:
        """The choices of one prompt have ended, one way or another."""
        self._metrics.choices_ended([choice.num_tokens for choice in choices])

    def _plain_settings(
        self,
        request: GenerationRequest,
        content: ContentConstraint | None,
        stops: StopAutomaton | None,
        *,
        drop_tokens: bool,
    ) -> ChoiceSettings:
        return ChoiceSettings(
            tokenizer=self._profile.tokenizer,
            stops=stops,
            include_stop=request.include_stop_str_in_output,
            skip_special_tokens=request.skip_special_tokens,
            drop_tokens=drop_tokens,
            new_tracer=self._tracer_factory(request, content),
            constraint_param=_constraint_param(content, NO_TOOLS),
        )

    def _tracer_factory(
        self, request: GenerationRequest, content: ContentConstraint | None
    ) -> Callable[[], Tracer] | None:
        if not request.traced:
            return None
        json_text = content is not None and content.kind in ("json", "json_object")
        return partial(Tracer, self._profile.tokenizer, json=json_text)

    def _node(self, content: ContentConstraint | None) -> Node | None:
        if content is None:
            return None
        try:
            return content_node(content, self._profile.tokenizer.special_ids)
        except StructuralTagError as error:
            refused = ConstraintError(error.message, code=error.code, pointer=error.pointer)
            raise self._refusal(refused, content.param) from None

    async def _admit(
        self,
        tree: Node,
        parts: Sequence[_Part],
        *,
        budget: _Budget,
        meanwhile: Callable[[], Awaitable[None]],
    ) -> Constraint:
        """The constraint, once it is known to compile."""
        spec = _spec(tree, parts)

        async def ask(task: str) -> str:
            compiled = self._compiling.known(task, spec)
            if compiled is not None:
                self._metrics.grammar_found()
                return compiled
            await meanwhile()
            started = time.monotonic()
            try:
                return await self._compiled(task, spec, parts)
            finally:
                self._metrics.grammar_awaited(time.monotonic() - started)

        tokens = budget.tokens
        if tokens is None or not (budget.close or _may_not_fit(tree, tokens)):
            return Constraint.loads(await ask("constraint"))
        if not budget.close:
            fitting = SizedConstraint.loads(await ask("fitting_constraint"))
            if fitting.tokens <= tokens:
                return fitting.constraint
        task = "closing_constraint" if budget.close else "sized_constraint"
        sized = SizedConstraint.loads(await ask(task))
        if sized.tokens > tokens:
            raise bad_request(
                f"The shortest answer that the constraint allows has {sized.tokens} tokens, and "
                f"the request allows {tokens}. Raise the limit.",
                budget.param,
                "max_tokens_too_small",
            )
        constraint = sized.constraint
        if constraint.closing is None:
            return constraint
        return msgspec.structs.replace(
            constraint, closing=replace(constraint.closing, tokens=tokens)
        )

    async def _compiled(self, task: str, spec: str, parts: Sequence[_Part]) -> str:
        """A refused whole is looked at part by part, to name the field."""
        try:
            return await self._compiling.compiled(task, spec)
        except ConstraintError as error:
            refused = error
        if len(parts) > 1:
            for part in parts:
                try:
                    await self._compiling.compiled("constraint", _spec(part.node, parts))
                except ConstraintError as error:
                    raise self._refusal(error, part.param, part.tool) from None
        if len(parts) == 1:
            raise self._refusal(refused, parts[0].param, parts[0].tool)
        raise self._refusal(refused, None)

    def _refusal(
        self, error: ConstraintError, param: str | None, tool: str | None = None
    ) -> ApiError:
        self._metrics.schema_refused(error.keyword or "other")
        if param is not None and error.pointer:
            param = f"{param}{'' if '#' in param else '#'}{error.pointer}"
        of_tool = "" if tool is None else f"The parameters of the tool {tool!r}: "
        return bad_request(of_tool + error.message, param, error.code)

    def _parser_factory(
        self, tools: ToolUse, state: ReasoningState, *, structured_content: bool
    ) -> Callable[[], Parser]:
        profile = self._profile
        parser_tools = _parser_tools(tools)

        def new_parser() -> Parser:
            return OutputParser(
                profile.tool_format,
                profile.reasoning_format,
                tools_enabled=tools.mode != "none",
                reasoning_state=state,
                special_ids=profile.tokenizer.special_ids,
                tools=parser_tools,
                structured_content=structured_content,
            )

        return new_parser


def _refuse_trace(request: GenerationRequest) -> None:
    if request.traced:
        param = "structured_outputs.trace"
        raise bad_request(f"'{param}' needs a constraint to follow.", param)


def _parser_choice(tools: ToolUse) -> ToolChoice:
    return ToolChoice.named(tools.tools[0].name) if tools.named else ToolChoice(tools.mode)


def _parser_tools(tools: ToolUse) -> list[Tool]:
    return [Tool(tool.name, tool.schema, f"{tool.param}#", tool.held) for tool in tools.tools]


def _constraint_param(content: ContentConstraint | None, tools: ToolUse) -> str | None:
    """The field to blame for a constraint that does not say which part of it is at fault."""
    if content is not None:
        return content.param
    return "tools" if tools.tools else "thinking_token_budget"


class _Part(NamedTuple):
    """What the client wrote, with the field that it stands in, and the tool if it is one's."""

    param: str
    node: Node
    tool: str | None = None


def _parts(content: ContentConstraint | None, node: Node | None, tools: ToolUse) -> list[_Part]:
    parts: list[_Part] = []
    if content is not None and node is not None:
        parts += [_Part(*part) for part in content_parts(content, node)]
    parts += [
        _Part(tool.param, tool.held or nodes.json_value(dict(tool.schema)), tool.name)
        for tool in tools.tools
    ]
    return parts


@dataclass(frozen=True)
class _Budget:
    tokens: int | None  # that the answer may have
    param: str
    close: bool  # end it in time


def _budget(request: GenerationRequest, max_tokens: int | None) -> _Budget:
    outputs = request.structured_outputs
    close = outputs is not None and bool(outputs.close_within_budget)
    chat_limit = getattr(request, "max_completion_tokens", None)
    return _Budget(
        max_tokens, "max_tokens" if chat_limit is None else "max_completion_tokens", close
    )


def _may_not_fit(tree: Node, max_tokens: int) -> bool:
    """Worth the while of working out the shortest answer: few tokens, or a schema that asks for
    many of something.
    """
    if tree["kind"] not in ("json", "regex", "choice"):
        return False
    return max_tokens < FEW_TOKENS or _MANY.search(json.dumps(tree)) is not None


def _spec(tree: Node, parts: Sequence[_Part]) -> str:
    try:
        return json.dumps({"tree": tree}, allow_nan=False)
    except ValueError as error:
        raise bad_request(
            "A schema must not hold NaN or Infinity.",
            parts[0].param if parts else None,
            "invalid_schema",
        ) from error
