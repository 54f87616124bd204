"""Resolves a schema's `$ref`s, `$dynamicRef`s and `$recursiveRef`s by `$id`, anchor or JSON Pointer
within the one document (JSON Schema Core 2020-12, sections 8.2 and 9.2). Nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from formgate.constrain.errors import ConstraintError
from formgate.constrain.schema.ledger import IN_LIST, IN_MAP, IN_SCHEMA

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class SchemaNode:
    """A sub-schema of the document in a dynamic scope, which decides the targets of `$dynamicRef`s
    below it. Nodes are compared by identity; `Resources` makes one for each path and scope.
    """

    schema: Any  # a mapping or a boolean
    path: Path
    base: str  # the URI against which references are resolved
    scope: Scope = ()


_HOLDERS = IN_MAP | IN_LIST | IN_SCHEMA

# Keywords that name a schema.
_NAMES = frozenset({"$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor"})

# For each dynamic anchor that several resources define, its outermost definition on the path of
# references to a node.
Scope = tuple[tuple[str, SchemaNode], ...]


class Resources:
    """The sub-schemas of a document, in order. Raises ConstraintError for one of more than
    `max_depth` levels; the root is the first.
    """

    def __init__(self, root: Any, max_depth: int) -> None:
        self._by_path: dict[Path, SchemaNode] = {}
        self._by_uri: dict[str, SchemaNode] = {}
        self._dynamic: dict[str, dict[str, SchemaNode]] = {}  # anchors by name, by their resource
        self._scoped: dict[tuple[Path, Scope], SchemaNode] = {}
        self._targets: dict[tuple[str, str], SchemaNode] = {}
        self._either: dict[tuple[SchemaNode, ...], SchemaNode] = {}
        self._parts: dict[SchemaNode, tuple[SchemaNode, ...]] = {}
        first = self._add(root, (), "")
        level = [first]
        for _ in range(max_depth - 1):
            level = [
                self._add(sub, path, node.base)
                for node in level
                for path, sub in subschemas(node.schema, node.path)
            ]
            if not level:
                break
        for node in level:
            for path, _ in subschemas(node.schema, node.path):
                raise _too_deep(path, str(path[len(node.path)]), max_depth)
        self._dynamic = {name: at for name, at in self._dynamic.items() if len(at) > 1}
        self.root = self._in_scope(first, ())

    def __iter__(self) -> Iterator[SchemaNode]:
        return iter(self._by_path.values())

    def child(self, node: SchemaNode, *parts: str | int) -> SchemaNode:
        """The sub-schema at `parts` below `node`. `parts` may name an unknown keyword."""
        if node in self._parts:
            return self._parts[node][int(parts[1])]
        path = node.path + parts
        found = self._by_path.get(path)
        if found is None:
            schema = node.schema
            for part in parts:
                schema = schema[part]
            found = self._by_path[path] = SchemaNode(schema, path, node.base)
        return self._in_scope(found, node.scope) if self._dynamic else found

    def either(self, nodes: tuple[SchemaNode, ...]) -> SchemaNode:
        """A synthetic `anyOf` of the nodes, which is not part of the document."""
        node = self._either.get(nodes)
        if node is None:
            schema = {"anyOf": [part.schema for part in nodes]}
            node = self._either[nodes] = SchemaNode(schema, nodes[-1].path, nodes[-1].base)
            self._parts[node] = nodes
        return node

    def _in_scope(self, place: SchemaNode, scope: Scope) -> SchemaNode:
        """The node of a place that is entered from a dynamic scope."""
        known = {name for name, _ in scope}
        scope += tuple(
            (name, at[place.base])
            for name, at in self._dynamic.items()
            if place.base in at and name not in known
        )
        if not scope:
            return place
        scope = tuple(sorted(scope, key=lambda one: one[0]))
        node = self._scoped.get((place.path, scope))
        if node is None:
            node = SchemaNode(place.schema, place.path, place.base, scope)
            self._scoped[place.path, scope] = node
        return node

    def _add(self, schema: Any, path: Path, base: str) -> SchemaNode:
        if path and (not isinstance(schema, dict) or _NAMES.isdisjoint(schema)):
            node = self._by_path[path] = SchemaNode(schema, path, base)
            return node
        if isinstance(schema, dict):
            own = schema.get("$id", schema.get("id"))
            if isinstance(own, str):
                if own.startswith("#"):  # up to draft 7, an anchor
                    self._by_uri.setdefault(_joined(base, own), SchemaNode(schema, path, base))
                else:
                    base = urljoin(base, own.rstrip("#"))
        node = self._by_path[path] = SchemaNode(schema, path, base)
        if isinstance(schema, dict):
            if not path or "$id" in schema or "id" in schema:
                self._by_uri.setdefault(base, node)
            for keyword in ("$anchor", "$dynamicAnchor"):
                if isinstance(name := schema.get(keyword), str):
                    self._by_uri.setdefault(f"{base}#{name}", node)
                    if keyword == "$dynamicAnchor":
                        self._dynamic.setdefault(name, {}).setdefault(base, node)
            if schema.get("$recursiveAnchor") is True and self._by_uri.get(base) is node:
                self._dynamic.setdefault("", {})[base] = node
        return node

    def target(self, node: SchemaNode, keyword: str) -> SchemaNode:
        """The target of `node`'s `$ref`, `$dynamicRef` or `$recursiveRef`. Raises
        ConstraintError.
        """
        reference = node.schema[keyword]
        found = self._targets.get((node.base, reference))
        if found is None:
            found = self._find(_joined(node.base, reference), reference, node, keyword)
            self._targets[node.base, reference] = found
        if not self._dynamic:
            return found
        if keyword != "$ref":
            name = "" if keyword == "$recursiveRef" else urldefrag(reference).fragment
            if self._dynamic.get(name, {}).get(found.base) is found:
                found = dict(node.scope).get(name, found)
        return self._in_scope(found, node.scope)

    def _find(self, uri: str, reference: str, node: SchemaNode, keyword: str) -> SchemaNode:
        if (found := self._by_uri.get(uri.rstrip("#") if uri.endswith("#") else uri)) is not None:
            return found
        document, fragment = urldefrag(uri)
        resource = self._by_uri.get(document)
        if resource is None and not document:
            resource = self.root
        if resource is None:
            raise _refused(
                node,
                keyword,
                f"points outside the schema ({reference[:100]!r}); nothing is fetched, so put the "
                "definition into `$defs`",
            )
        if fragment and not fragment.startswith("/"):
            raise _refused(node, keyword, f"names no anchor of the schema ({reference[:100]!r})")
        place: Any = resource.schema
        parts: list[str | int] = []
        base = resource.base
        for raw in fragment.split("/")[1:]:
            name = unquote(raw).replace("~1", "/").replace("~0", "~")
            part: str | int = name
            if isinstance(place, list) and name.isdecimal() and int(name) < len(place):
                part = int(name)
            elif not isinstance(place, dict) or name not in place:
                raise _refused(
                    node, keyword, f"points to nothing in the schema ({reference[:100]!r})"
                )
            place = place[part]
            parts.append(part)
            if (known := self._by_path.get((*resource.path, *parts))) is not None:
                base = known.base
        path = (*resource.path, *parts)
        known = self._by_path.get(path)
        if known is not None:
            return known
        if not isinstance(place, dict | bool):
            raise _refused(node, keyword, f"points to no schema ({reference[:100]!r})")
        return self._add(place, path, base)


def _joined(base: str, reference: str) -> str:
    """`urljoin` that also joins a fragment to a URN, which has no hierarchy."""
    if reference.startswith("#"):
        return urldefrag(base).url + reference
    return urljoin(base, reference)


def subschemas(schema: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """The direct sub-schemas of a schema, each with its path."""
    if not isinstance(schema, dict) or _HOLDERS.isdisjoint(schema):
        return
    for keyword, value in schema.items():
        if keyword not in _HOLDERS:
            continue
        if keyword in IN_MAP:
            if isinstance(value, dict):
                for name, sub in value.items():
                    if isinstance(sub, dict | bool):
                        yield (*path, keyword, name), sub
        elif isinstance(value, list):
            if keyword in IN_LIST:
                for at, sub in enumerate(value):
                    yield (*path, keyword, at), sub
        elif keyword in IN_SCHEMA and isinstance(value, dict | bool):
            yield (*path, keyword), value


def _too_deep(path: Path, keyword: str, max_depth: int) -> ConstraintError:
    return ConstraintError.at(
        path,
        f"{max_depth} levels of schemas inside schemas are allowed, and this is one more. Write "
        "inner schemas into `$defs` of the root, and a `$ref` in their place",
        code="schema_too_complex",
        keyword=keyword,
    )


def _refused(node: SchemaNode, keyword: str, why: str) -> ConstraintError:
    return ConstraintError.at(
        (*node.path, keyword), f"the reference {why}", code="unsupported_schema", keyword=keyword
    )
