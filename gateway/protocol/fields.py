"""The fields that chat completions and completions share, OpenAI's and vLLM's, with types and
ranges. Cross-field rules are in `rules`, the limits and their reasons in `limits`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from formgate.gateway.protocol.constraint_names import (
    CONSTRAINT_NAME,
    IN_A_FORMAT,
    SCHEMA_KEYWORDS,
)
from formgate.gateway.protocol.limits import (
    INT64_MAX,
    MAX_ALTERNATIVES,
    MAX_BAD_WORD_CHARS,
    MAX_BAD_WORDS,
    MAX_CACHE_SALT_CHARS,
    MAX_CHOICES,
    MAX_CONSTRAINT_CHARS,
    MAX_ID_CHARS,
    MAX_LOGIT_BIAS,
    MAX_METADATA,
    MAX_MODEL_CHARS,
    MAX_NAME_CHARS,
    MAX_REQUEST_ID_CHARS,
    MAX_STOP_CHARS,
    MAX_STOP_TOKEN_IDS,
    MAX_STOPS,
    MAX_TOKEN_IDS,
)

_IDS_AT_ONCE = 16_384  # checked at once: well under a millisecond


def _check_token_ids(value: object, check_each: Callable[[object], list[int]]) -> list[int]:
    """Check a list of token ids as a whole. `check_each` holds the GIL, so it sees only an invalid
    list, and stops at the first fault."""
    if isinstance(value, list) and 0 < len(value) <= MAX_TOKEN_IDS:
        parts = (value[i : i + _IDS_AT_ONCE] for i in range(0, len(value), _IDS_AT_ONCE))
        if all(
            set(map(type, part)) == {int} and min(part) >= 0 and max(part) <= INT64_MAX
            for part in parts
        ):
            return value
    return check_each(value)


def up_to(limit: int) -> Any:
    """Limits a list's length. Reports only its first fault, since it may have a million."""
    return Field(max_length=limit, fail_fast=True)


def at_most(limit: int) -> BeforeValidator:
    """Limits the number of an object's members, before these are validated."""

    def check(value: object) -> object:
        if isinstance(value, dict) and len(value) > limit:
            raise PydanticCustomError("too_long", f"it may have at most {limit} members")
        return value

    return BeforeValidator(check)


def let_others_run(value: Any) -> Any:
    """Validates nothing. A call of a Python function lets other threads take the GIL, which the
    validation of a long list holds otherwise."""
    return value


Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=INT64_MAX)]
Positive = Annotated[int, Field(ge=1, le=INT64_MAX)]
OrAll = Annotated[int, Field(ge=-1, le=INT64_MAX)]  # -1: no limit
Int64 = Annotated[int, Field(ge=-INT64_MAX - 1, le=INT64_MAX)]

Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(max_length=MAX_NAME_CHARS)]
Id = Annotated[str, Field(max_length=MAX_ID_CHARS)]
ModelName = Annotated[str, Field(max_length=MAX_MODEL_CHARS)]
ConstraintText = Annotated[str, Field(max_length=MAX_CONSTRAINT_CHARS)]

StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
Stops = Annotated[list[StopText], up_to(MAX_STOPS)]
BadWord = Annotated[str, Field(min_length=1, max_length=MAX_BAD_WORD_CHARS)]
Alternatives = Annotated[list[Text], up_to(MAX_ALTERNATIVES)]
TokenIds = Annotated[list[Count], up_to(MAX_TOKEN_IDS), WrapValidator(_check_token_ids)]
Metadata = Annotated[dict[str, Any], Field(max_length=MAX_METADATA), at_most(MAX_METADATA)]
JsonSchema = dict[str, Any] | bool


class Body(BaseModel):
    """Keeps unknown fields, so that those that look like a constraint can be refused. Converts no
    value: `"0.5"` is not a number and `true` not an integer."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())

    # Unknown fields with these names are refused.
    constraint_names: ClassVar[re.Pattern[str]] = CONSTRAINT_NAME


class RequestBody(Body):
    """The whole body of a request."""

    _num_bytes: int = PrivateAttr(default=0)

    @property
    def num_bytes(self) -> int:
        """Size of the body in bytes, as an estimate of the work."""
        return self._num_bytes


class StreamOptions(Body):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class JsonSchemaFormat(Body):
    constraint_names = IN_A_FORMAT

    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)] | None = None
    description: str | None = None
    # `schema` is a method of pydantic's models.
    json_schema: JsonSchema | None = Field(default=None, alias="schema")
    strict: bool | None = None

    @property
    def bare_schema(self) -> dict[str, Any] | None:
        """The whole object, if it is a schema itself instead of holding one."""
        extra = self.model_extra or {}
        if "json_schema" in self.model_fields_set or SCHEMA_KEYWORDS.isdisjoint(extra):
            return None
        return self.model_dump(exclude_unset=True)


class ResponseFormat(Body):
    constraint_names = IN_A_FORMAT

    type: Literal[
        "text", "json_object", "json_schema", "structural_tag", "json", "regex", "grammar"
    ]
    json_schema: JsonSchemaFormat | None = None
    # The schema's place at llama.cpp, Together and Fireworks, for either type of JSON.
    bare_schema: JsonSchema | None = Field(default=None, alias="schema")
    value: Any = None  # TGI's place for a schema or regex
    pattern: ConstraintText | None = None  # Together's place for a regex
    grammar: ConstraintText | None = None  # Fireworks'


class StructuredOutputs(Body):
    # `json` is a method of pydantic's models.
    json_schema: JsonSchema | ConstraintText | None = Field(default=None, alias="json")
    regex: ConstraintText | None = None
    choice: Alternatives | None = None
    grammar: ConstraintText | None = None
    json_object: bool | None = None
    structural_tag: Any = None
    whitespace_pattern: ConstraintText | None = None
    close_within_budget: bool | None = None
    allow_truncated_json: bool | None = None
    trace: bool | None = None


class GenerationRequest(RequestBody):
    model: ModelName | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    max_tokens: Count | None = None
    min_tokens: Count = 0
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: StopText | Stops | None = None
    stop_token_ids: Annotated[TokenIds, Field(max_length=MAX_STOP_TOKEN_IDS)] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False

    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    top_k: OrAll | None = None
    min_p: Annotated[Finite, Field(ge=0, le=1)] | None = None
    frequency_penalty: Annotated[Finite, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[Finite, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[Finite, Field(gt=0, le=100)] | None = None
    logit_bias: (
        Annotated[
            dict[str, Annotated[Finite, Field(ge=-100, le=100)]],
            Field(max_length=MAX_LOGIT_BIAS),
            at_most(MAX_LOGIT_BIAS),
        ]
        | None
    ) = None
    seed: Int64 | None = None
    bad_words: Annotated[list[BadWord], up_to(MAX_BAD_WORDS)] | None = None
    allowed_token_ids: TokenIds | None = None

    prompt_logprobs: Count | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True  # accepted: no fast tokenizer adds such spaces
    return_token_ids: bool | None = None
    truncate_prompt_tokens: OrAll | None = None

    priority: Int64 = 0
    request_id: Annotated[str, Field(min_length=1, max_length=MAX_REQUEST_ID_CHARS)] | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=MAX_CACHE_SALT_CHARS)] | None = None
    user: Id | None = None
    metadata: Metadata | None = None
    store: bool | None = None

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: JsonSchema | ConstraintText | None = None
    guided_regex: ConstraintText | None = None
    guided_choice: Alternatives | None = None
    guided_grammar: ConstraintText | None = None
    guided_whitespace_pattern: ConstraintText | None = None

    # Of llama.cpp and SGLang.
    json_schema: JsonSchema | ConstraintText | None = None
    grammar: ConstraintText | None = None
    # Of SGLang.
    regex: ConstraintText | None = None
    ebnf: ConstraintText | None = None
    structural_tag: Any = None
    # Of Ollama: "json", or a schema.
    format: JsonSchema | ConstraintText | None = None

    @property
    def traced(self) -> bool:
        return self.structured_outputs is not None and bool(self.structured_outputs.trace)

    @property
    def stops(self) -> list[str]:
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def usage_in_every_chunk(self) -> bool:
        return bool(
            self.stream_options
            and self.stream_options.include_usage
            and self.stream_options.continuous_usage_stats
        )
