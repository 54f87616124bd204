"""The families that write arguments one by one between tags."""

from __future__ import annotations

from formgate.parsers.formats.calls import Name
from formgate.parsers.formats.format import Format
from formgate.parsers.formats.tagged import TaggedArguments
from formgate.parsers.text.symbols import Marker

QWEN3_CODER = Format(
    name="qwen3_coder",
    marker=(Marker("<tool_call>"),),
    before=("\n<function=",),
    call=(
        Name(then=">"),
        ">\n",
        TaggedArguments(
            key_open=("<parameter=",),
            key_close=(">",),
            lead="\n",
            trail="\n",
            value_close=("</parameter>",),
        ),
        "</function>",
    ),
    after=("\n", Marker("</tool_call>")),
    between=("\n",),
    one_per_marker=True,
)

GLM45 = Format(
    name="glm45",
    marker=(Marker("<tool_call>"),),
    call=(
        Name(),
        "\n",
        TaggedArguments(
            key_open=(Marker("<arg_key>"),),
            key_close=(Marker("</arg_key>"),),
            value_open=("\n", Marker("<arg_value>")),
            value_close=(Marker("</arg_value>"),),
        ),
    ),
    after=(Marker("</tool_call>"),),
    between=("\n",),
    one_per_marker=True,
)
