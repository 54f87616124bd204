"""From what a request wants (tools, schema, reasoning) to how its answer is made and read: the
constraint that the engine is given, the parser of what comes out, and the last look at both.
Nothing is admitted whose constraint has not been compiled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import msgspec

from formgate.constrain.errors import ConstraintError
from formgate.constrain.masks.constraint import Constraint
from formgate.constrain.masks.thinking import ThinkingBudget
from formgate.gateway.answers.answer_checks import Promise
from formgate.gateway.answers.choice import Choice, ChoiceSettings, Parser, RenamedCalls
from formgate.gateway.answers.constraint_admission import (
    Compiling,
    ConstraintAdmission,
    Part,
    PartRefused,
    TokenLimit,
)
from formgate.gateway.answers.content_nodes import content_node, content_parts
from formgate.gateway.answers.last_validation import LastValidation
from formgate.gateway.answers.reasoning_start import reasoning_start
from formgate.gateway.answers.tool_choice import NO_TOOLS, ToolUse, tool_use
from formgate.gateway.answers.trace import Tracer
from formgate.gateway.answers.unenforced import MOST_LEFT_OUT, Loosening
from formgate.gateway.errors import bad_request
from formgate.gateway.metrics import Metrics
from formgate.gateway.model.model_profile import ModelProfile
from formgate.gateway.model.stop_strings import StopAutomaton, stop_automaton
from formgate.gateway.model.text_threads import LONG_BODY
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.completion import CompletionRequest
from formgate.gateway.protocol.constraints import content_constraint
from formgate.gateway.protocol.content_constraint import ContentConstraint
from formgate.gateway.protocol.fields import GenerationRequest
from formgate.gateway.protocol.tool_names import ToolNames
from formgate.parsers.formats.format import ReasoningState, Tool, ToolChoice, UnsupportedArguments
from formgate.parsers.grammar import answer_grammar
from formgate.parsers.stream import OutputParser
from formgate.parsers.structural.fields import StructuralTagError
from formgate.parsers.tree import nodes
from formgate.parsers.tree.nodes import Node

MANY_TOOLS = 50
LONG_PROMPT = 20_000  # tokens


async def _nothing() -> None:
    pass


@dataclass(frozen=True)
class AnswerPlan:
    constraint: str | None  # for the engine
    settings: ChoiceSettings
    promise: Promise


@dataclass(frozen=True)
class _Asked:
    """What a chat request wants of its answer."""

    request: ChatCompletionRequest
    content: ContentConstraint | None
    node: Node | None  # of the content
    tools: ToolUse
    names: ToolNames
    state: ReasoningState


class AnswerPlanner:
    def __init__(self, profile: ModelProfile, compiling: Compiling, metrics: Metrics) -> None:
        self._profile = profile
        self.last_validation = LastValidation(compiling.check, metrics)
        self._admission = ConstraintAdmission(compiling, metrics)
        self._loosening = Loosening(metrics)
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
        content = content_constraint(request)
        node = self._node(content)
        tools = tool_use(
            request,
            auto_tool_choice=self._profile.auto_tool_choice,
            strict=self._profile.strict_tools,
        )
        if tools.mode != "none" and self._profile.tool_format is None:
            raise bad_request(
                "The model has no known format for tool calls. Start the server with "
                "--tool-call-parser.",
                "tools",
                "unsupported_parameter",
            )
        state = await self._reasoning_state(request, prompt_token_ids)
        names = ToolNames(tool.name for tool in request.tools or ())
        tools, admitted = await self._admitted(
            _Asked(request, content, node, tools, names, state),
            limit=_limit(request, max_tokens, may_be_cut=self._profile.allow_truncated_json),
            meanwhile=meanwhile,
        )
        constraint = None
        if admitted is not None:
            thinking = self._thinking_budget(request, state)
            constraint = msgspec.structs.replace(admitted, thinking=thinking).dumps()
        if request.thinking_token_budget == 0 and state == "optional":
            state = "none"
        return AnswerPlan(
            constraint=constraint,
            settings=replace(
                self._settings(request, content, tools, await stop_automaton(request.stops)),
                new_parser=self._parser_factory(
                    _written(tools, names),
                    names,
                    state,
                    structured_content=content is not None,
                ),
                may_reason=state in ("open", "optional"),
                at_start=content is None and not request.continue_final_message,
                calls_end_with_stop=tools.named,
            ),
            promise=Promise(content, tools),
        )

    async def _admitted(
        self, asked: _Asked, *, limit: TokenLimit, meanwhile: Callable[[], Awaitable[None]]
    ) -> tuple[ToolUse, Constraint | None]:
        """The constraint, and the tools as it enforces them: those that are not strict lose the
        keywords that it cannot. None if the model may write anything."""
        tools, left = self._loosening.known(asked.tools)
        num_known = len(left)
        while True:
            try:
                tree = await self._chat_tree(asked, tools)
                admitted = None
                if tree is None:
                    _refuse_trace(asked.request)
                else:
                    admitted = await self._admission.admit(
                        tree,
                        _parts(asked.content, asked.node, tools),
                        limit=limit,
                        meanwhile=meanwhile,
                    )
                break
            except PartRefused as refused:
                looser = self._loosening.looser(tools, refused)
                if looser is None or len(left) >= MOST_LEFT_OUT:
                    raise self._admission.refusal(refused) from None
                tools, left = looser[0], (*left, looser[1])
        if left:
            self._loosening.tell(asked.tools, left, is_new=len(left) > num_known)
        return tools, admitted

    async def _reasoning_state(
        self, request: ChatCompletionRequest, prompt_token_ids: Sequence[int]
    ) -> ReasoningState:
        # Off the event loop where it takes so long that other streams would notice.
        if request.num_bytes > LONG_BODY or len(prompt_token_ids) > LONG_PROMPT:
            return await asyncio.to_thread(
                reasoning_start, request, prompt_token_ids, self._profile
            )
        return reasoning_start(request, prompt_token_ids, self._profile)

    async def _chat_tree(self, asked: _Asked, tools: ToolUse) -> Node | None:
        """What the model may write; None where that is anything. Raises PartRefused."""
        tools = _written(tools, asked.names)
        grammar = partial(
            answer_grammar,
            self._profile.tool_format,
            self._profile.reasoning_format,
            tools=_parser_tools(tools),
            tool_choice=_parser_choice(tools),
            parallel=tools.parallel,
            content=asked.node,
            reasoning_state=asked.state,
            special_ids=self._profile.tokenizer.special_ids,
            thinking_budget=asked.request.thinking_token_budget,
        )
        try:
            many = len(tools.tools) > MANY_TOOLS
            return await asyncio.to_thread(grammar) if many else grammar()
        except UnsupportedArguments as error:
            # The family's own syntax for calls cannot carry these tools.
            param, _, pointer = error.pointer.partition("#")
            refused = ConstraintError(
                str(error), code="unsupported_schema", pointer=pointer, keyword=error.keyword
            )
            raise PartRefused(refused, Part(param, nodes.EMPTY)) from error

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
            try:
                admitted = await self._admission.admit(
                    node,
                    _parts(content, node, NO_TOOLS),
                    limit=_limit(
                        request, max_tokens, may_be_cut=self._profile.allow_truncated_json
                    ),
                    meanwhile=meanwhile,
                )
            except PartRefused as refused:
                raise self._admission.refusal(refused) from None
            constraint = admitted.dumps()
        stops = await stop_automaton(request.stops)
        return AnswerPlan(
            constraint=constraint,
            settings=replace(
                self._settings(request, content, NO_TOOLS, stops), drop_tokens=drop_tokens
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

    def _settings(
        self,
        request: GenerationRequest,
        content: ContentConstraint | None,
        tools: ToolUse,
        stops: StopAutomaton | None,
    ) -> ChoiceSettings:
        """What completions and chat completions share."""
        return ChoiceSettings(
            tokenizer=self._profile.tokenizer,
            stops=stops,
            include_stop=request.include_stop_str_in_output,
            skip_special_tokens=request.skip_special_tokens,
            new_tracer=self._tracer_factory(request, None if tools.tools else content),
            constraint_param=_constraint_param(content, tools),
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
            raise self._admission.refusal_of(refused, content.param) from None

    def _parser_factory(
        self, tools: ToolUse, names: ToolNames, state: ReasoningState, *, structured_content: bool
    ) -> Callable[[], Parser] | None:
        """None where all of the answer is its content. `tools` have the names that the model
        writes."""
        if tools.mode == "none" and state not in ("open", "optional"):
            return None
        new_parser = partial(
            OutputParser,
            self._profile.tool_format,
            self._profile.reasoning_format,
            tools_enabled=tools.mode != "none",
            reasoning_state=state,
            special_ids=self._profile.tokenizer.special_ids,
            tools=_parser_tools(tools),
            structured_content=structured_content,
        )
        return new_parser if names.all_as_given else lambda: RenamedCalls(new_parser(), names)


def _written(tools: ToolUse, names: ToolNames) -> ToolUse:
    """The tools under the names that the model writes."""
    if names.all_as_given:
        return tools
    renamed = (replace(tool, name=names.written(tool.name)) for tool in tools.tools)
    return replace(tools, tools=tuple(renamed))


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


def _parts(content: ContentConstraint | None, node: Node | None, tools: ToolUse) -> list[Part]:
    parts: list[Part] = []
    if content is not None and node is not None:
        parts += [Part(*part) for part in content_parts(content, node)]
    parts += [
        Part(tool.param, tool.held or nodes.json_value(dict(tool.schema)), tool.name)
        for tool in tools.tools
    ]
    return parts


def _limit(request: GenerationRequest, max_tokens: int | None, *, may_be_cut: bool) -> TokenLimit:
    """`may_be_cut`: the server's default; the request may say otherwise."""
    outputs = request.structured_outputs
    close = outputs is not None and bool(outputs.close_within_budget)
    if outputs is not None and outputs.allow_truncated_json is not None:
        may_be_cut = outputs.allow_truncated_json
    chat_limit = getattr(request, "max_completion_tokens", None)
    param = "max_tokens" if chat_limit is None else "max_completion_tokens"
    return TokenLimit(None if may_be_cut and not close else max_tokens, param, close)
