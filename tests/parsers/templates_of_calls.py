"""Chat templates of our own, each with another syntax for calls. In a syntax, `call` and `loop` are
those of Jinja's loop over the calls of one turn.
"""

from __future__ import annotations

_FRAME = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content %}{{ message.content }}{% endif -%}
{%- if message.tool_calls -%}CALLS{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}"""
_LOOP = "{%- for call in message.tool_calls -%}{%- set f = call.function -%}"
_END = "{%- endfor -%}"
_COMMA = "{%- if not loop.last -%}{{ ', ' }}{%- endif -%}"
_EACH = "{%- for key, value in f.arguments.items() -%}"
_VALUE = "{{ value if value is string else value | tojson }}"
_JSON = "{{ f.arguments | tojson }}"
_OBJECT = '{"name": "{{ f.name }}", "arguments": ' + _JSON + "}"


def calls_template(calls: str) -> str:
    """A whole template around the part that writes the calls of a turn."""
    return _FRAME.replace("CALLS", calls)


def _each(call: str, joint: str = "") -> str:
    between = f"{{%- if not loop.last -%}}{{{{ {joint!r} }}}}{{%- endif -%}}" if joint else ""
    return _LOOP + call + between + _END


def _tagged(opening: str, key: str, end: str, closing: str) -> str:
    return opening + _EACH + key + _VALUE + end + _END + closing


SYNTAXES = {
    "a list in a section": "<TOOLCALL>[" + _each(_OBJECT, ", ") + "]</TOOLCALL>",
    "a line for each call": (
        "{{ '<tool_calls>\\n' }}" + _each(_OBJECT + "{{ '\\n' }}") + "</tool_calls>"
    ),
    "the name is a key": (
        "<|tools_prefix|>[" + _each('{"{{ f.name }}": ' + _JSON + "}", ", ") + "]<|tools_suffix|>"
    ),
    "name and input on lines": _each(
        "{{ 'Action: ' + f.name + '\\nAction Input: ' }}" + _JSON, "\n"
    ),
    "a tag for the name and one for the arguments": _each(
        "{{ '<tool:call>\\n<tool_name>' + f.name + '</tool_name>\\n<parameters>' }}"
        + _JSON
        + "{{ '</parameters>\\n</tool:call>' }}",
        "\n",
    ),
    "the name in a tag, then JSON": _each("<function={{ f.name }}>" + _JSON + "</function>"),
    "a tag for each argument": (
        "{{ '<calls>\\n' }}"
        + _each(
            _tagged(
                "{{ '<invoke name=\"' + f.name + '\">\\n' }}",
                "{{ '<parameter name=\"' + key + '\">' }}",
                "{{ '</parameter>\\n' }}",
                "{{ '</invoke>\\n' }}",
            )
        )
        + "</calls>"
    ),
    "a tag of the key's name": _each(
        _tagged('<call tool="{{ f.name }}">', "<{{ key }}>", "</{{ key }}>", "</call>"),
        "\n",
    ),
    "arguments between tokens, on lines": _each(
        _tagged(
            "{{ '<|call|>' + f.name + '\\n' }}",
            "{{ '<|key|>' + key + '<|value|>\\n' }}",
            "{{ '\\n<|end_value|>\\n' }}",
            "<|end_call|>",
        )
    ),
    "tags that tell texts": _each(
        "{{ '<|call|>' + f.name + '\\n' }}"
        + _EACH
        + "<arg name=\"{{ key }}\" text=\"{{ 'yes' if value is string else 'no' }}\">"
        + _VALUE
        + "{{ '</arg>\\n' }}"
        + _END
        + "<|end_call|>"
    ),
    "keyword arguments, a call on a line": (
        "{{ '<function_calls>\\n' }}"
        + _each(
            "{{ f.name }}(" + _EACH + "{{ key }}={{ value | tojson }}" + _COMMA + _END + ")",
            "\n",
        )
        + "{{ '\\n</function_calls>' }}"
    ),
    "recipients": _each("{{ '>>>' + f.name + '\\n' }}" + _JSON),
    "objects of OpenAI's shape": (
        "[TOOL_CALLS]["
        + _each('{"id": "{{ call.id }}", "type": "function", "function": ' + _OBJECT + "}", ", ")
        + "]"
    ),
    "numbered objects": (
        "{{ '<|START|>[\\n    ' }}"
        + _each(
            '{"id": "{{ loop.index0 }}", "tool": "{{ f.name }}", "input": ' + _JSON + "}",
            ",\n    ",
        )
        + "{{ '\\n]<|END|>' }}"
    ),
    "numbers behind names": (
        "<|calls|>"
        + _each("<|call|>tools.{{ f.name }}:{{ loop.index0 }}<|args|>" + _JSON + "<|end_call|>")
        + "<|end_calls|>"
    ),
    "compact JSON": _each(
        '<tool_call>{"name":"{{ f.name }}","arguments":' + _JSON + "}</tool_call>"
    ),
    "indented JSON": (
        "{{ 'Action: ```json\\n' }}["
        + _each(
            '{{ \'\\n    {\\n        "tool_name": "\' + f.name + \'",\\n        "parameters": \' }}'
            + "{{ f.arguments | tojson(indent=4) }}{{ '\\n    }' }}",
            ",",
        )
        + "{{ '\\n]```' }}"
    ),
    "one call only": (
        "{%- if message.tool_calls | length > 1 -%}{{ raise_exception('one call') }}{%- endif -%}"
        + _each("<|call|>{{ f.name }}<|args|>" + _JSON + "<|end_call|>")
    ),
    "a call and nothing else": _each('{"tool": "{{ f.name }}", "input": ' + _JSON + "}", "; "),
}
