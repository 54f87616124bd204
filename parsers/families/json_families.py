"""The families whose calls consist of the shared parts: JSON objects, bare names, JSON arguments.
Each definition follows the family's chat template.
"""

from __future__ import annotations

from formgate.parsers.formats.calls import (
    Expected,
    JsonArguments,
    JsonCall,
    Name,
    NumberedName,
    Tolerated,
)
from formgate.parsers.formats.format import Format
from formgate.parsers.text.symbols import Marker

# Up to tokenizer v7: one marker, then all calls in one array. SentencePiece tokenizers put a space
# before the array, Tekken does not.
MISTRAL = Format(
    name="mistral",
    marker=(Marker("[TOOL_CALLS]"),),
    spaced=True,
    before=("[",),
    call=(JsonCall(),),
    between=(", ",),
    after=("]",),
    call_ids="mistral",
)

# Small 3.2, Ministral 3, Devstral. Tokenizer v11 writes an id between name and arguments, too late
# for the start of the call; v13 has dropped it.
MISTRAL_V11 = Format(
    name="mistral_v11",
    marker=(Marker("[TOOL_CALLS]"),),
    call=(Name(), Tolerated(Marker("[CALL_ID]")), Expected((Marker("[ARGS]"),)), JsonArguments()),
    one_per_marker=True,
    call_ids="mistral",
)

# Llama 3.1 to 3.3.
LLAMA3_JSON = Format(
    name="llama3_json",
    marker=(Marker("<|python_tag|>"),),
    call=(JsonCall("parameters", name_first=True),),
    between=("; ",),
    bare=True,
    bare_starts=(
        ("{", '"name"', ":", '"{name}"'),
        ("{", '"type"', ":", '"function"'),
    ),
    bare_is_json=True,
)

# Qwen2.5, Qwen3, Hermes, Granite 4.
HERMES = Format(
    name="hermes",
    marker=(Marker("<tool_call>"),),
    before=("\n",),
    call=(JsonCall(),),
    after=("\n", Marker("</tool_call>")),
    between=("\n",),
    one_per_marker=True,
)

# DeepSeek-V3, R1-0528.
DEEPSEEK_V3 = Format(
    name="deepseek_v3",
    marker=(Marker("<｜tool▁calls▁begin｜>"),),
    call=(
        Marker("<｜tool▁call▁begin｜>"),
        "function",
        Marker("<｜tool▁sep｜>"),
        Name(),
        "\n```json\n",
        JsonArguments(),
        "\n```",
        Marker("<｜tool▁call▁end｜>"),
    ),
    between=("\n",),
    after=(Marker("<｜tool▁calls▁end｜>"),),
)

DEEPSEEK_V31 = Format(
    name="deepseek_v31",
    marker=(Marker("<｜tool▁calls▁begin｜>"),),
    call=(
        Marker("<｜tool▁call▁begin｜>"),
        Name(),
        Marker("<｜tool▁sep｜>"),
        JsonArguments(),
        Marker("<｜tool▁call▁end｜>"),
    ),
    after=(Marker("<｜tool▁calls▁end｜>"),),
)

# The answer contains the call's id, and the template expects it back unchanged.
KIMI_K2 = Format(
    name="kimi_k2",
    marker=(Marker("<|tool_calls_section_begin|>"),),
    call=(
        Marker("<|tool_call_begin|>"),
        NumberedName("functions."),
        Marker("<|tool_call_argument_begin|>"),
        JsonArguments(),
        Marker("<|tool_call_end|>"),
    ),
    after=(Marker("<|tool_calls_section_end|>"),),
    call_ids="written",
)

# Granite 3.
GRANITE = Format(
    name="granite",
    marker=(Marker("<|tool_call|>"),),
    before=("[",),
    call=(JsonCall(),),
    between=(", ",),
    after=("]",),
)

INTERNLM = Format(
    name="internlm",
    marker=(Marker("<|action_start|>"),),
    before=(Marker("<|plugin|>"), "\n"),
    call=(JsonCall("parameters"),),
    after=(Marker("<|action_end|>"),),
    one_per_marker=True,
)

JAMBA = Format(
    name="jamba",
    marker=(Marker("<tool_calls>"),),
    before=("[\n    ",),
    call=(JsonCall(),),
    between=(",\n    ",),
    after=("\n]", Marker("</tool_calls>")),
)

PHI4_MINI_JSON = Format(
    name="phi4_mini_json",
    marker=(Marker("functools"),),
    before=("[",),
    call=(JsonCall(),),
    between=(", ",),
    after=("]",),
)

XLAM = Format(
    name="xlam",
    before=("[",),
    call=(JsonCall(name_first=True),),
    between=(", ",),
    after=("]",),
    bare=True,
    bare_starts=(
        ("[", "{", '"name"', ":", '"{name}"'),
        ("[", "{", '"type"', ":", '"function"'),
    ),
    bare_is_json=True,
)

# gpt-oss. Every message names its channel, and a call is a message to a function.
HARMONY = Format(
    name="harmony",
    marker=(Marker("<|channel|>"), "commentary to=functions."),
    # The recipient may also stand before the channel, or in the analysis channel.
    other_markers=((Marker("<|channel|>"), "analysis to=functions."),),
    header_marker=" to=functions.",
    call=(
        Name(),
        Tolerated(Marker("<|channel|>")),
        Expected((" ", Marker("<|constrain|>"), "json")),
        Marker("<|message|>"),
        JsonArguments(),
    ),
    one_per_marker=True,
    max_calls=1,
    content_opening=(Marker("<|channel|>"), "final", Marker("<|message|>")),
    glue=(Marker("<|start|>"), "assistant"),
    silent=(
        (Marker("<|start|>"), "assistant"),
        (Marker("<|channel|>"), "final", Marker("<|message|>")),
        (Marker("<|channel|>"), "commentary", Marker("<|message|>")),
        (Marker("<|end|>"),),
        (Marker("<|return|>"),),
        (Marker("<|call|>"),),
    ),
)
