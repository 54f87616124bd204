"""Compiles the text of a constraint to token masks. Compiled grammars are shared and immutable; a
sequence copies their first state.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from typing import Any, Literal

from llguidance import LLMatcher, LLParserLimits

from formgate.constrain.answer_size import quick_answer, shortest_answer
from formgate.constrain.answer_tree import to_lark
from formgate.constrain.errors import ConstraintError
from formgate.constrain.grammar.shortest import Shortest
from formgate.constrain.heap import Heap
from formgate.constrain.library_errors import refused
from formgate.constrain.masks.blueprint import Blueprint, Guards
from formgate.constrain.masks.closing import Budget, ClosingConstraint
from formgate.constrain.masks.constraint import Constraint
from formgate.constrain.masks.end_search import EndSearch
from formgate.constrain.masks.fsm import CompiledFsm, FsmCompiler, FsmConstraint, regex_of
from formgate.constrain.masks.grammar_cache import GrammarCache
from formgate.constrain.masks.matcher import GrammarConstraint
from formgate.constrain.masks.matcher_pool import CompiledGrammar
from formgate.constrain.masks.names import NameGuard
from formgate.constrain.masks.parallel_masks import ParallelFiller
from formgate.constrain.masks.sibling_guard import GuardedConstraint
from formgate.constrain.masks.thinking import ThinkingConstraint, ThinkingTokens
from formgate.constrain.masks.token_bytes import TokenBytes
from formgate.constrain.masks.vocabulary import Vocabulary
from formgate.constrain.regex.formats import FORMATS
from formgate.constrain.regex.regex_terms import native_regex, pattern_term
from formgate.constrain.rules.json_schema import ReadSchemas

TokenConstraint = (
    GrammarConstraint | GuardedConstraint | FsmConstraint | ThinkingConstraint | ClosingConstraint
)
Backend = Literal["llguidance", "outlines"]

# Measured memory of a compiled grammar, per byte of its Lark source.
_BYTES_PER_SOURCE_BYTE = 25

_WARM_UP_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 40},
        "code": {"type": "string", "pattern": "^[a-z]+-[0-9]{2,4}$"},
        "day": {"type": "string", "format": "date"},
        "count": {"type": "integer", "minimum": 0},
        "price": {"type": "number", "exclusiveMinimum": 0},
        "kind": {"enum": ["new", "old"]},
        "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True, "minItems": 1},
        "part": {"anyOf": [{"$ref": "#/$defs/part"}, {"type": "null"}]},
    },
    "required": ["name", "tags"],
    "patternProperties": {"^x-": {"type": "boolean"}},
    "additionalProperties": False,
    "$defs": {"part": {"type": "object", "properties": {"size": {"type": "integer"}}}},
}

_ONE_SCHEMA = re.compile(r"start: (\w+)\n\1: %json (\{.*\})\n")


@dataclass(frozen=True)
class Limits:
    """Bounds on the size and the work of one constraint."""

    max_spec_bytes: int = 2_000_000
    max_grammar_size: int = 500_000  # symbols in productions
    heap_check_seconds: float = 10.0  # between two measures of what cached grammars have grown to
    max_lexer_states: int = 50_000  # about 2 to 5 kB each
    initial_lexer_fuel: int = 1_000_000  # about 50,000 a millisecond
    # Per mask. Counted words within a maxLength need more than llguidance's 200,000.
    step_lexer_fuel: int = 2_000_000
    step_max_items: int = 50_000  # about 20,000 a millisecond
    max_items_in_row: int = 20_000  # Earley items per byte: an enum of numbers has one per value
    max_cached_bytes: int = 48_000_000

    def for_parser(self) -> LLParserLimits:
        return LLParserLimits(
            max_grammar_size=self.max_grammar_size,
            max_lexer_states=self.max_lexer_states,
            initial_lexer_fuel=self.initial_lexer_fuel,
            step_lexer_fuel=self.step_lexer_fuel,
            step_max_items=self.step_max_items,
            max_items_in_row=self.max_items_in_row,
            verbose_errors=False,
        )


class _Spec:
    """A constraint during compilation: its text, and its schemas once they are read."""

    def __init__(self, text: str, max_bytes: int) -> None:
        self.text = text
        self.schemas = ReadSchemas()
        self._max_bytes = max_bytes

    @cached_property
    def tree(self) -> Any:
        """Raises ConstraintError."""
        num_bytes = len(self.text) if self.text.isascii() else len(self.text.encode())
        if num_bytes > self._max_bytes:
            raise ConstraintError(
                f"The constraint has {num_bytes} bytes; at most {self._max_bytes} are "
                "allowed. Write repeated schemas once, into `$defs`, or a `pattern` for a long "
                "`enum`.",
                code="schema_too_complex",
            )
        try:
            tree = json.loads(self.text)["tree"]
            if "\\ud" in self.text:  # the escape of a surrogate, which may be half of a pair
                json.dumps(tree, ensure_ascii=False).encode()
        except RecursionError:
            raise _too_deep() from None
        except UnicodeEncodeError as error:
            half = ord(error.object[error.start])
            raise ConstraintError(
                f"The constraint holds U+{half:04X}, which is half of a character and in no text.",
                code="invalid_schema",
            ) from None
        return tree


class GrammarCompiler:
    """Thread-safe. `padded_vocab_size` is the number of logits, at least the vocabulary's size.
    With the backend "outlines", regular constraints are compiled to Outlines' index; all others
    use llguidance.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        padded_vocab_size: int,
        limits: Limits | None = None,
        backend: Backend = "llguidance",
        for_masks: bool = True,
    ) -> None:
        assert padded_vocab_size >= len(vocabulary.token_bytes)
        self._limits = limits or Limits()
        self._parser_limits = self._limits.for_parser()
        self._vocabulary = vocabulary
        self._tokenizer = vocabulary.ll_tokenizer(for_masks=for_masks)
        self._mask_bytes = 4 * (-(-self._tokenizer.vocab_size // 32))
        self._fsm = FsmCompiler(vocabulary) if backend == "outlines" else None
        most = self._limits.max_cached_bytes
        # Grammars grow only where masks are made.
        measure = Heap().bytes_in_use if for_masks else None
        self._built = GrammarCache[CompiledGrammar | CompiledFsm](
            most, measure, check_seconds=self._limits.heap_check_seconds
        )
        self._blueprints = GrammarCache[str](most // 10)
        self._sizes = GrammarCache[Shortest](most // 10)

    def warm_up(self) -> None:
        """Build the vocabulary's tables and fill lazy caches, so that the first requests do not
        wait for them.
        """
        spec_text = json.dumps({"tree": {"kind": "json", "schema": _WARM_UP_SCHEMA}})
        self.factory(Constraint.of(self.blueprint(spec_text)).dumps())
        self.num_tokens(self.shortest(spec_text).text)
        _ = self._names, self._end_search

    def warm_up_formats(self) -> None:
        """Compile the formats of schemas in advance. Only makers of blueprints use them."""
        for known, in_json in product(FORMATS.values(), (False, True)):
            pattern_term(known.narrow, search=False, in_json=in_json)
            native_regex(known.narrow, search=False)

    def compile(self, spec_text: str) -> CompiledGrammar | CompiledFsm:
        """Compile and build the spec of an answer tree in this process. Raises ConstraintError."""
        return self.build(self.blueprint(spec_text))

    def blueprint(self, spec_text: str) -> str:
        """Compile and check the spec of an answer tree. Any process can build the blueprint. Raises
        ConstraintError if the constraint cannot be enforced exactly.
        """
        return self._blueprint(_Spec(spec_text, self._limits.max_spec_bytes))

    def sized_blueprint(self, spec_text: str) -> tuple[str, Shortest]:
        """Return the blueprint and the shortest answer. The schemas are read once for both. Raises
        ConstraintError.
        """
        spec = _Spec(spec_text, self._limits.max_spec_bytes)
        return self._blueprint(spec), self._shortest(spec)

    def fitting_blueprint(self, spec_text: str) -> tuple[str, int]:
        """Return the blueprint, and a number of tokens in which some answer fits. It is often the
        minimum, and much cheaper to compute. Raises ConstraintError.
        """
        spec = _Spec(spec_text, self._limits.max_spec_bytes)
        blueprint = self._blueprint(spec)
        enough = self._tokens_of_quick_answer(spec, blueprint)
        return blueprint, self.num_tokens(self._shortest(spec).text) if enough is None else enough

    def _tokens_of_quick_answer(self, spec: _Spec, blueprint_text: str) -> int | None:
        built = self.build(blueprint_text)
        if not isinstance(built, CompiledGrammar) or built.guarded:
            return None
        text = quick_answer(spec.tree, spec.schemas)
        if text is None:
            return None
        tokens = self._tokenizer.tokenize_str(text)
        return len(tokens) if built.takes(tokens) else None

    def _blueprint(self, spec: _Spec) -> str:
        blueprint = self._blueprints.get(spec.text)
        if blueprint is None:
            if self._fsm is not None and (pattern := regex_of(spec.tree)) is not None:
                blueprint = Blueprint(pattern=pattern).dumps()
                self.build(blueprint)
            else:
                blueprint = self._grammar_blueprint(spec)
            self._blueprints.put(spec.text, blueprint, len(blueprint))
        return blueprint

    def build(self, blueprint_text: str) -> CompiledGrammar | CompiledFsm:
        """Raises ConstraintError."""
        built = self._built.get(blueprint_text)
        if built is None:
            blueprint = Blueprint.loads(blueprint_text)
            if blueprint.pattern is not None:
                assert self._fsm is not None, "the blueprint was made for another backend"
                built = self._fsm.compile(blueprint.pattern)
            else:
                built = self._grammar(blueprint.source, blueprint.guards)
                if built.first.is_error():
                    raise refused(built.first.get_error())
            size = _BYTES_PER_SOURCE_BYTE * len(blueprint.source)
            self._built.put(blueprint_text, built, size)
        return built

    def factory(self, text: str) -> TokenConstraint:
        """The masks of one sequence, from the text of a `Constraint`. Raises ConstraintError."""
        constraint = Constraint.loads(text)
        blueprint = constraint.blueprint_text
        started = self.build(blueprint).start()
        if isinstance(started, FsmConstraint):
            return started  # no reasoning, and no search for its end
        masks: GrammarConstraint | GuardedConstraint | ThinkingConstraint = started
        if constraint.thinking is not None:
            encode = self._tokenizer.tokenize_str
            tokens = ThinkingTokens(constraint.thinking, self._vocabulary, encode)
            masks = ThinkingConstraint(masks, tokens)
        if (closing := constraint.closing) is not None:
            search = self._end_search.with_endings(
                Blueprint.loads(blueprint).endings, closing.endings
            )
            return ClosingConstraint(masks, search, closing)
        return masks

    def filler(self, num_threads: int) -> ParallelFiller:
        """A filler for the masks of many constraints in one step."""
        return ParallelFiller(self._mask_bytes // 4, num_threads=num_threads)

    def shortest(self, spec_text: str) -> Shortest:
        """The shortest answer under a constraint. Raises ConstraintError."""
        return self._shortest(_Spec(spec_text, self._limits.max_spec_bytes))

    def _shortest(self, spec: _Spec) -> Shortest:
        size = self._sizes.get(spec.text)
        if size is None:
            try:
                size = shortest_answer(spec.tree, self._vocabulary.token_bytes, spec.schemas)
            except RecursionError:
                raise _too_deep() from None
            self._sizes.put(spec.text, size, len(size.text))
        return size

    def closing(self, blueprint_text: str, shortest: Shortest, tokens: int = 0) -> Budget:
        """The budget of an answer of `tokens` tokens. Searches for a token sequence of a whole
        answer. Raises ConstraintError if it finds none: no answer could be closed in time.
        """
        constraint = self.build(blueprint_text).start()
        if isinstance(constraint, FsmConstraint):
            raise ConstraintError(
                "`close_within_budget` is not supported by the structured-outputs backend "
                "`outlines`, with which the server was started.",
                code="unsupported_schema",
            )
        if not self._vocabulary.eos_ids:
            return Budget(tokens, shortest.largest_part)
        search = self._end_search.with_endings(
            Blueprint.loads(blueprint_text).endings, shortest.endings
        )
        text = self._tokenizer.tokenize_str(shortest.text)
        way = [*text, self._vocabulary.eos_ids[0]] if text else []
        if not (way and search.leads(constraint.copy(), way)):
            way = search.to_end(constraint)
        if not way:
            raise ConstraintError(
                "No short answer to the constraint was found, so that no answer can be closed "
                "within a budget. Leave `close_within_budget` out, or ask for fewer members and "
                "items that must differ.",
                code="schema_too_complex",
            )
        return Budget(tokens, shortest.largest_part, shortest.endings, tuple(way))

    def num_tokens(self, text: str) -> int:
        """Number of tokens of a text."""
        return len(self._tokenizer.tokenize_str(text))

    def _grammar_blueprint(self, spec: _Spec) -> str:
        tree, read, token_bytes = spec.tree, spec.schemas, self._vocabulary.token_bytes
        try:
            lark = to_lark(tree, token_bytes, native=True, read=read)
            source = _source(lark.source)
            grammar = self._grammar(source, lark.guards)
            if grammar.first.is_error() and lark.native:
                # The algebra supports more than llguidance's own compiler, and has better errors.
                lark = to_lark(tree, token_bytes, native=False, read=read)
                source = _source(lark.source)
                grammar = self._grammar(source, lark.guards)
        except RecursionError:
            raise _too_deep() from None
        grammar.check()
        blueprint = Blueprint(source, lark.guards, endings=lark.endings).dumps()
        self._built.put(blueprint, grammar, _BYTES_PER_SOURCE_BYTE * len(source))
        return blueprint

    def _grammar(self, source: str, guards: Guards) -> CompiledGrammar:
        names = self._names if guards else None
        return CompiledGrammar(partial(self._matcher, source), self._mask_bytes, guards, names)

    def _matcher(self, source: str) -> LLMatcher:
        return LLMatcher(self._tokenizer, source, limits=self._parser_limits, log_level=0)

    @cached_property
    def _names(self) -> NameGuard:
        return NameGuard(TokenBytes(self._vocabulary.token_bytes, self._vocabulary.special_ids))

    @cached_property
    def _end_search(self) -> EndSearch:
        vocabulary = self._vocabulary
        return EndSearch(
            vocabulary.token_bytes,
            vocabulary.special_ids,
            vocabulary.eos_ids,
            self._tokenizer.tokenize_bytes,
        )


def _source(lark: str) -> str:
    """The grammar without the Lark around it if it is a single schema: llguidance takes longer to
    read the Lark than most schemas.
    """
    whole = _ONE_SCHEMA.fullmatch(lark)
    return lark if whole is None else f'{{"grammars": [{{"json_schema": {whole[2]}}}]}}'


def _too_deep() -> ConstraintError:
    return ConstraintError(
        "The constraint is nested too deeply. Write inner schemas into `$defs` of the root, and a "
        "`$ref` in their place.",
        code="schema_too_complex",
    )
