"""Tool names as a model writes them lead back to the client's, one to one."""

from __future__ import annotations

import re

from formgate.gateway.protocol.tool_names import ToolNames


def test_a_tool_named_as_a_suffix_makes_another() -> None:
    """Each call leads back to its own tool, whatever names a client chooses."""
    names = ["a/b", "a:b", "a_b"]
    for _ in range(5):  # now the client takes the names that the others had got
        names += [ToolNames(names).written(one) for one in ("a/b", "a:b")]
        mapping = ToolNames(names)
        written = [mapping.written(name) for name in names]
        assert len(set(written)) == len(names)
        assert [mapping.given(name) for name in written] == names
        assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", name) for name in written)
    long = ["x" * 127 + "/", "x" * 127 + ":", "x" * 127 + "_"]
    mapping = ToolNames(long)
    assert [mapping.given(mapping.written(name)) for name in long] == long
    assert {len(mapping.written(name)) for name in long} == {128}
