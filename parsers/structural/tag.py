"""Converts a structural tag, in either of vLLM's forms, to an answer tree. Free text contains a
trigger only at the start of a tag, and ends at the first occurrence of the fixed text after it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from formgate.parsers.structural.fields import (
    Path,
    StructuralTagError,
    check_begins,
    check_fields,
    check_object,
    check_separator,
    excluded_texts,
    flag,
    items,
    pointer_of,
    schema_of,
    string,
    strings,
    unsupported,
    wrong,
)
from formgate.parsers.structural.texts import Texts
from formgate.parsers.tree import nodes
from formgate.parsers.tree.nodes import Node

# Characters that may continue a number. Before one of them, the end of a number is ambiguous.
_NUMBER_CHARS = frozenset("0123456789.eE+-")
_NO_NUMBER = frozenset({"object", "array", "string", "boolean", "null"})
_FIELDS: dict[str, frozenset[str]] = {
    "const_string": frozenset({"value", "text"}),
    "json_schema": frozenset({"json_schema", "style"}),
    "regex": frozenset({"pattern", "excludes"}),
    "grammar": frozenset({"grammar"}),
    "any_text": frozenset({"excluded_str", "excluded_strs", "excludes"}),
    "sequence": frozenset({"elements"}),
    "or": frozenset({"elements"}),
    "tag": frozenset({"begin", "content", "end"}),
    "triggered_tags": frozenset(
        {"triggers", "tags", "at_least_one", "stop_after_first", "excludes", "excluded_strs"}
    ),
    "tags_with_separator": frozenset({"tags", "separator", "at_least_one", "stop_after_first"}),
}


def structural_tag_tree(value: Any, special_ids: Mapping[str, int]) -> Node:
    """The answer tree of a structural tag, given as an object or as its JSON text. `special_ids`:
    ids of the special tokens by their texts. Raises StructuralTagError with a pointer into `value`.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise wrong((), "is not valid JSON") from None
    if not isinstance(value, dict):
        raise wrong((), "must be an object")
    writer = _TreeWriter(special_ids)
    try:
        if "format" in value:
            if "structures" in value or "triggers" in value:
                raise wrong((), 'has both "format" and "structures"')
            check_fields(value, (), frozenset({"type", "format"}))
            return writer.format(value["format"], ("format",), "")
        return writer.legacy(value)
    except RecursionError:
        raise StructuralTagError(
            "The structural tag is nested too deeply.", code="schema_too_complex"
        ) from None


class _TreeWriter:
    """Writes nodes for formats. `then` is the fixed text directly after a format, which is part of
    its node: "" at the end of the answer, None if the text after it is not fixed.
    """

    def __init__(self, special_ids: Mapping[str, int]) -> None:
        self._texts = Texts(special_ids)

    def legacy(self, value: dict[str, Any]) -> Node:
        check_fields(value, (), frozenset({"type", "structures", "triggers"}))
        structures = items(value, "structures", ())
        tags = []
        for i, item in enumerate(structures):
            path: Path = ("structures", i)
            check_object(item, path)
            check_fields(item, path, frozenset({"begin", "schema", "end"}))
            begin, end = string(item, "begin", path), string(item, "end", path)
            if "schema" not in item:
                raise wrong((*path, "schema"), "is missing")
            schema = schema_of(item["schema"], (*path, "schema"))
            tags.append((path, begin, (schema, (*path, "schema")), end))
        triggers = strings(value, "triggers", ())
        return self._triggered(
            [(path, begin, _Schema(*schema), end) for path, begin, schema, end in tags],
            triggers, (), (), "", at_least_one=False, once=False,
        )  # fmt: skip

    def format(self, value: Any, path: Path, then: str | None) -> Node:
        if isinstance(value, _Schema):
            return self._json(value.schema, value.path, then)
        check_object(value, path)
        kind = value.get("type")
        if not isinstance(kind, str):
            raise wrong((*path, "type"), "is missing" if kind is None else "must be a string")
        if kind not in _FIELDS:
            raise StructuralTagError(
                f"The structural tag format {kind!r:.60} at {pointer_of(path)} is not supported.",
                code="unsupported_schema",
                pointer=pointer_of((*path, "type")),
            )
        check_fields(value, path, _FIELDS[kind] | {"type"})
        match kind:
            case "const_string" | "tag" | "sequence":
                return self._sequence(self._flat(value, path), then)
            case "json_schema":
                if value.get("style", "json") != "json":
                    raise unsupported((*path, "style"), "is not supported except as 'json'")
                at = (*path, "json_schema")
                if "json_schema" not in value:
                    raise wrong(at, "is missing")
                return self._json(schema_of(value["json_schema"], at), at, then)
            case "regex":
                return self._regex(value, path, then)
            case "grammar":
                return self._grammar(value, path, then)
            case "any_text":
                excluded = excluded_texts(value, path)
                return self._free_until(then, excluded, path)
            case "or":
                elements = items(value, "elements", path)
                return nodes.choice(
                    self.format(item, (*path, "elements", i), then)
                    for i, item in enumerate(elements)
                )
            case "triggered_tags":
                triggers = strings(value, "triggers", path)
                return self._triggered(
                    self._tags(value, path), triggers, excluded_texts(value, path), path, then,
                    at_least_one=flag(value, "at_least_one", path),
                    once=flag(value, "stop_after_first", path),
                )  # fmt: skip
            case _:
                return self._separated(value, path, then)

    def _flat(self, value: dict[str, Any], path: Path) -> list[tuple[Any, Path]]:
        """A format flattened into a sequence of fixed texts (strings) and other formats."""
        check_object(value, path)
        match value.get("type"):
            case "const_string":
                check_fields(value, path, _FIELDS["const_string"] | {"type"})
                name = "text" if "text" in value and "value" not in value else "value"
                return [(string(value, name, path), path)]
            case "tag":
                check_fields(value, path, _FIELDS["tag"] | {"type"})
                _, begin, content, end = self._tag(value, path)
                inside = (*path, "content")
                return [(begin, path), *self._flat_part(content, inside), (end, path)]
            case "sequence":
                check_fields(value, path, _FIELDS["sequence"] | {"type"})
                elements = items(value, "elements", path)
                return [
                    part
                    for i, item in enumerate(elements)
                    for part in self._flat_part(item, (*path, "elements", i))
                ]
        return [(value, path)]

    def _flat_part(self, value: Any, path: Path) -> list[tuple[Any, Path]]:
        if isinstance(value, _Schema):
            return [(value, path)]
        return self._flat(value, path)

    def _sequence(self, parts: Sequence[tuple[Any, Path]], then: str | None) -> Node:
        parts = [part for part in parts if part[0] != ""]
        written: list[Node] = []
        i = 0
        while i < len(parts):
            part, path = parts[i]
            i += 1
            if isinstance(part, str):
                written.append(self._texts.node(part))
                if i == len(parts):
                    written.append(self._texts.node(then or ""))
            elif i == len(parts):
                written.append(self.format(part, path, then))
            elif isinstance(following := parts[i][0], str):
                written.append(self.format(part, path, following))
                i += 1
                if i == len(parts):
                    written.append(self._texts.node(then or ""))
            else:
                written.append(self.format(part, path, None))
        if not parts:
            return self._texts.node(then or "")
        return nodes.seq(written)

    def _tag(self, value: Any, path: Path) -> tuple[Path, str, Any, str]:
        check_object(value, path)
        if value.get("type", "tag") != "tag":
            raise wrong((*path, "type"), "must be 'tag'")
        check_fields(value, path, _FIELDS["tag"] | {"type"})
        if "content" not in value:
            raise wrong((*path, "content"), "is missing")
        end = value.get("end")
        if isinstance(end, list) and len(end) == 1:
            end = end[0]
        if isinstance(end, list):
            raise unsupported((*path, "end"), "with several texts is not supported")
        return (
            path,
            string(value, "begin", path),
            value["content"],
            string({"end": end}, "end", path),
        )

    def _tags(self, value: dict[str, Any], path: Path) -> list[tuple[Path, str, Any, str]]:
        return [
            self._tag(item, (*path, "tags", i)) for i, item in enumerate(items(value, "tags", path))
        ]

    def _written(self, tag: tuple[Path, str, Any, str], skip: int, then: str | None) -> Node:
        """A tag without the first `skip` characters of its `begin`."""
        path, begin, content, end = tag
        inside = self._flat_part(content, (*path, "content"))
        return self._sequence([(begin[skip:], path), *inside, (end, path)], then)

    def _json(self, schema: Any, path: Path, then: str | None) -> Node:
        may_go_on = then is None or (then[:1] in _NUMBER_CHARS and then != "")
        if may_go_on and not (isinstance(schema, dict) and _no_number(schema)):
            raise unsupported(
                path,
                'may be a number whose end is ambiguous: give it a "type" other than a number, or '
                "fixed text behind it that cannot continue a number",
            )
        node = nodes.json_value(schema, pointer=pointer_of(path))
        return nodes.seq([node, self._texts.node(then or "")])

    def _regex(self, value: dict[str, Any], path: Path, then: str | None) -> Node:
        at = (*path, "pattern")
        pattern = string(value, "pattern", path)
        excluded = strings(value, "excludes", path) if value.get("excludes") else ()
        node = nodes.regex(pattern, without=excluded, pointer=pointer_of(at))
        if then == "":
            return node
        if then is None:
            raise unsupported(at, "needs fixed text behind it to mark its end")
        head, token, rest = self._texts.cut(then)
        node = nodes.regex_until(node, head, lazy=token is None)
        return node if token is None else nodes.seq([node, token, self._texts.node(rest)])

    def _grammar(self, value: dict[str, Any], path: Path, then: str | None) -> Node:
        at = (*path, "grammar")
        source = string(value, "grammar", path)
        if then != "":
            raise unsupported(at, "is supported only if the answer ends with it")
        return nodes.lark(source, pointer=pointer_of(at))

    def _free_until(self, then: str | None, excluded: Sequence[str], path: Path) -> Node:
        """Free text without any of `excluded`, followed by `then`."""
        if then == "":
            return nodes.free(excluded)
        if then is None:
            raise unsupported(path, "needs fixed text behind it to mark its end")
        head, token, rest = self._texts.cut(then)
        for text in excluded:
            if text in then:
                raise wrong(path, f"excludes {text!r:.60}, which is part of the text that ends it")
        if token is None:
            return nodes.free_text_until(head, excluded)
        # A special token ends the free text, which must not contain the token's characters either.
        anything = nodes.regex("(?s:.*)", without=[*excluded, then])
        free = nodes.regex_until(anything, head, lazy=False)
        return nodes.seq([free, token, self._texts.node(rest)])

    def _triggered(
        self,
        tags: Sequence[tuple[Path, str, Any, str]],
        triggers: Sequence[str],
        excluded: Sequence[str],
        path: Path,
        then: str | None,
        *,
        at_least_one: bool,
        once: bool,
    ) -> Node:
        if then is None and not (at_least_one and once):
            raise unsupported(path, "needs fixed text behind it to mark its end")
        ends = [then] if then else []
        _check_apart([*triggers, *ends], path)
        check_begins(tags)
        by_trigger: dict[str, list[tuple[Path, str, Any, str]]] = {t: [] for t in triggers}
        for tag in tags:
            found = [trigger for trigger in triggers if tag[1].startswith(trigger)]
            if not found:
                raise wrong((*tag[0], "begin"), "begins with none of the triggers")
            if self._texts.cuts_token(tag[1], len(found[0])):
                raise unsupported((*tag[0], "begin"), "has a special token that its trigger cuts")
            by_trigger[found[0]].append(tag)
        first = nodes.choice(self._written(tag, 0, then if once else None) for tag in tags)
        if at_least_one and once:
            return first
        behind = then if once else None
        triggered = []
        for trigger, its_tags in by_trigger.items():
            others = [t for t in [*triggers, *ends] if t != trigger]
            if its_tags:
                text = self._free_until(trigger, [*excluded, *others], path)
                rest = nodes.choice(self._written(tag, len(trigger), behind) for tag in its_tags)
                triggered.append(nodes.seq([text, rest]))
        tail = self._free_until(then, [*excluded, *triggers], path)
        if once:
            return nodes.choice([tail, *triggered])
        loop = nodes.repeat(nodes.choice(triggered), 0, None)
        return nodes.seq([first, loop, tail] if at_least_one else [loop, tail])

    def _separated(self, value: dict[str, Any], path: Path, then: str | None) -> Node:
        tags = self._tags(value, path)
        separator = string(value, "separator", path)
        once = flag(value, "stop_after_first", path)
        check_begins(tags)
        check_separator(separator, then or "", (tag[1] for tag in tags), path)
        node = nodes.repeat(
            nodes.choice(self._written(tag, 0, None) for tag in tags),
            int(flag(value, "at_least_one", path)),
            1 if once else None,
            self._texts.node(separator),
        )
        return nodes.seq([node, self._texts.node(then or "")])


class _Schema:
    """A schema in place of a format, and its path."""

    def __init__(self, schema: Any, path: Path) -> None:
        self.schema, self.path = schema, path


def _check_apart(texts: Sequence[str], path: Path) -> None:
    for i, text in enumerate(texts):
        for other in texts[:i]:
            if text in other or other in text:
                raise unsupported(
                    (*path, "triggers"),
                    f"{other!r:.60} and {text!r:.60} hold one another: the start of a tag, or the "
                    "end of the text, is ambiguous",
                )


def _no_number(schema: Mapping[str, Any]) -> bool:
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    return all(isinstance(kind, str) and kind in _NO_NUMBER for kind in kinds)
