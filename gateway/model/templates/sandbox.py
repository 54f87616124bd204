"""Bounds what a chat template may cost. A template comes with a model from anywhere, and some loop
over what a client sends; no rendering may stall the server or take its memory.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes, pass_context
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

# Of one rendering. A conversation of 10,000 messages takes some 100,000 passes.
MAX_STEPS = 1_000_000  # passes of loops, calls and filters: half a second
MAX_TEXT = 1 << 26  # characters of one text
MAX_MADE = 1 << 29  # characters of all texts, kept or not
MAX_SECONDS = 5.0  # of the thread's CPU time, for the few steps that are long ones
MAX_COUNT = 1_000_000  # an integer that a filter or a method is given: a width, a number of copies
MAX_INDENT = 100
MAX_BITS = 4_096  # of an integer that is computed

_WIDE = re.compile(r"[0-9]{6,}|%[^%a-zA-Z]*\*")  # of a format; `%*d` takes its width from a value
_ITEM = 16  # a list's item counts as so many characters
_CALL = 20  # steps that a call of a template's own macro counts for, or of a loop within itself
_STEPS_A_LOOK = 256  # between two looks at the clock


class TemplateTooCostly(jinja2.TemplateError):
    """The rendering exceeds a bound."""


class _Budget:
    __slots__ = ("_ends", "_look", "_made", "_steps")

    def __init__(self) -> None:
        self._steps = self._made = self._look = 0
        self._ends = time.thread_time() + MAX_SECONDS

    def step(self, count: int = 1) -> None:
        self._steps += count
        if self._steps > MAX_STEPS:
            raise TemplateTooCostly(f"it takes more than {MAX_STEPS} steps")
        if self._steps >= self._look:
            self._look = self._steps + _STEPS_A_LOOK
            if time.thread_time() > self._ends:
                raise TemplateTooCostly(f"it takes more than {MAX_SECONDS:.0f} seconds")

    def made(self, size: int) -> None:
        """Count the characters of a text that was made, or will be."""
        self._made += size
        if size > MAX_TEXT or self._made > MAX_MADE:
            raise TemplateTooCostly(f"it makes texts of more than {MAX_TEXT} characters")


_current: ContextVar[_Budget] = ContextVar("template_budget")


@contextmanager
def bounded() -> Iterator[None]:
    """Compile or render one template of a `BoundedSandbox` inside."""
    token = _current.set(_Budget())
    try:
        yield
    finally:
        _current.reset(token)


def rendered(template: jinja2.Template, variables: dict[str, Any]) -> str:
    """The template's text. Raises what it raises, and TemplateTooCostly."""
    with bounded():
        length, pieces = 0, []
        for piece in template.generate(variables):
            length += len(piece)
            if length > MAX_TEXT:
                raise TemplateTooCostly(f"it makes texts of more than {MAX_TEXT} characters")
            pieces.append(piece)
        return "".join(pieces)


class BoundedSandbox(ImmutableSandboxedEnvironment):
    """Counts the passes of loops and the sizes of what operators, filters and calls make. Nothing
    given can be changed, but a template may append to lists, as it does to its own.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def bound_filters(self) -> None:
        """After the last filter was added."""
        self.filters = {name: _bounded_filter(name, each) for name, each in self.filters.items()}
        self.filters[_LOOP], self.filters[_MADE] = _counted, _measured

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            loop.iter = _filter(_LOOP, loop.iter)
        for block in list(tree.find_all(nodes.AssignBlock)):
            block.filter = _filter(_MADE, block.filter)
        _measure_joints(tree)
        tree.set_environment(self)
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        appends = isinstance(obj, list) and attr == "append"
        return appends or super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_format(value.__self__)
        return wrapped

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            _check_product(left, right)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() * max(right, 0) > MAX_BITS:
                raise TemplateTooCostly("it computes an integer that is too large")
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
        return _measure(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        _current.get().step(_CALL if isinstance(__obj, Macro | LoopContext) else 1)
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if owner is not None or name in ("format", "format_map"):  # a text's or a list's method
            _check_counts((*args, *kwargs.values()))
            if name == "join":
                _check_joint(args[0] if args else (), owner)
            elif name == "replace":
                _check_replacing(owner, *args[:2])
        return _measure(super().call(__context, __obj, *args, **kwargs))


_LOOP, _MADE = "formgate_loop", "formgate_made"


@pass_context  # never computed before the rendering
def _counted(_: Context, items: Iterable[Any]) -> Iterator[Any]:
    step = _current.get().step
    for item in items:
        step()
        yield item


@pass_context
def _measured(_: Context, value: Any) -> Any:
    return _measure(value)


def _measure(value: Any) -> Any:
    if isinstance(value, str):
        _current.get().made(len(value))
    elif isinstance(value, list | tuple):
        _current.get().made(_ITEM * len(value))
    return value


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > MAX_BITS:
            raise TemplateTooCostly("it computes an integer that is too large")
        return
    for text, count in ((left, right), (right, left)):
        if isinstance(text, Sized) and isinstance(count, int):
            _current.get().made((1 if isinstance(text, str) else _ITEM) * len(text) * count)


def _check_counts(given: Iterable[Any], most: int = MAX_COUNT) -> None:
    if any(isinstance(one, int) and abs(one) > most for one in given):
        raise TemplateTooCostly(f"it gives a filter or a method a number above {most}")


def _check_format(pattern: str) -> None:
    if _WIDE.search(pattern):
        raise TemplateTooCostly("it formats values in a width that is too large")


def _check_replacing(text: Any, old: Any = None, new: Any = None) -> None:
    if isinstance(text, str) and isinstance(old, str) and isinstance(new, str):
        _current.get().made(text.count(old) * len(new))


def _check_joint(items: Any = (), joint: Any = "") -> None:
    if isinstance(joint, str) and len(joint) > 1:
        count = len(items) if isinstance(items, Sized) else MAX_COUNT
        _current.get().made(count * len(joint))


def _bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    before = 1 if hasattr(function, "jinja_pass_arg") else 0  # the context, or the like
    most = MAX_INDENT if name in ("indent", "tojson") else MAX_COUNT

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        _current.get().step()
        value, *given = args[before:]
        _check_counts((*given, *kwargs.values()), most)
        if name == "replace":
            _check_replacing(value, *given[:2])
        elif name == "join":
            _check_joint(value, given[0] if given else kwargs.get("d", ""))
        elif name == "format":
            _check_format(str(value))
        elif name == "indent":
            _check_counts(map(len, (one for one in given if isinstance(one, str))), most)
        return _measure(function(*args, **kwargs))

    return call


def _filter(name: str, node: nodes.Node | None) -> nodes.Filter:
    line = 1 if node is None else node.lineno
    return nodes.Filter(node, name, [], [], None, None, lineno=line)


def _measure_joints(node: nodes.Node) -> None:
    """Measure what each `~` makes."""
    for child in list(node.iter_child_nodes()):
        _measure_joints(child)
    for field, value in list(node.iter_fields()):
        if isinstance(value, nodes.Concat):
            setattr(node, field, _filter(_MADE, value))
        elif isinstance(value, list):
            measured = [_filter(_MADE, e) if isinstance(e, nodes.Concat) else e for e in value]
            setattr(node, field, measured)
