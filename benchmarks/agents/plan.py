"""What the scripted model says: list the folder, read the file, edit it, say done. The turn follows
from the prompt alone, as it would for a model: the tools it offers, the results it holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

BEFORE, AFTER = "hello", "goodbye"
FILE = "greeting.txt"
TASK = f"In the file {{path}}, replace the word {BEFORE} by {AFTER}. Then say done."
DONE = "The file is changed."

# Aider takes edits from the text of an answer.
_BLOCK = f"""{{path}}
```
<<<<<<< SEARCH
{BEFORE} world
=======
{AFTER} world
>>>>>>> REPLACE
```
"""
_PATH = re.compile(rf"In the file (\S+/{re.escape(FILE)}),")
_SHELLS = ("exec_command", "shell_command", "shell", "Bash", "bash", "run_shell_command")
_READS = ("Read", "read", "read_file")
_EDITS = ("Edit", "edit", "replace", "apply_patch")
# What an argument holds, by the names that agents give it.
_COMMAND = ("cmd", "command")
_PATHS = ("file_path", "filePath", "absolute_path", "path")
_OLD = ("old_string", "oldString")
_NEW = ("new_string", "newString")
CALLS, _RESULTS = "[TOOL_CALLS]", "[TOOL_RESULTS]"


def next_turn(prompt: str) -> str:
    """The answer to a prompt in the embedded model's template. A prompt without the task or without
    tools is a side request of the agent (a title, a summary): it gets a sentence."""
    thought = "The plan has a next step.\n</think>\n" if prompt.endswith("<think>\n") else ""
    return thought + _step(prompt)


def _step(prompt: str) -> str:
    tools = _tools(prompt)
    task = _PATH.search(prompt)
    if task is not None and not tools and "*SEARCH/REPLACE" in prompt:
        return _BLOCK.format(path=task[1])
    if task is None or not tools:
        return DONE
    path = task[1]
    steps = [
        _call(tools, _SHELLS, {_COMMAND: "ls"}),
        _call(tools, _READS, {_PATHS: path}) or _call(tools, _SHELLS, {_COMMAND: f"cat {path}"}),
        _edit(tools, path),
    ]
    done = prompt.count(_RESULTS)
    return steps[done] if done < len(steps) else DONE


def _tools(prompt: str) -> dict[str, Mapping[str, Any]]:
    """Parameters by the name of the tool."""
    _, begun, rest = prompt.partition("[AVAILABLE_TOOLS]")
    if not begun:
        return {}
    tools, _ = json.JSONDecoder().raw_decode(rest)
    return {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}


def _edit(tools: Mapping[str, Mapping[str, Any]], path: str) -> str:
    edit = _call(tools, _EDITS, {_PATHS: path, _OLD: BEFORE, _NEW: AFTER})
    if edit:
        return edit
    if "apply_patch" in tools:
        patch = (
            f"*** Begin Patch\n*** Update File: {path}\n@@\n-{BEFORE} world\n+{AFTER} world\n"
            "*** End Patch"
        )
        return _written("apply_patch", {"input": patch})
    return _call(tools, _SHELLS, {_COMMAND: f"sed -i s/{BEFORE}/{AFTER}/ {path}"})


def _call(
    tools: Mapping[str, Mapping[str, Any]],
    names: Sequence[str],
    values: Mapping[tuple[str, ...], str],
) -> str:
    """A call of the first tool among `names` that has an argument for each value; else empty."""
    for name in names:
        properties = tools.get(name, {}).get("properties", {})
        given = {
            key: _shaped(properties[key], value)
            for keys, value in values.items()
            for key in keys
            if key in properties
        }
        if len(given) == len(values):
            required = tools[name].get("required", [])
            # In the order of the schema, as the mask has it; a further required text is anything.
            ordered = {
                key: given.get(key, "x") for key in properties if key in given or key in required
            }
            return _written(name, ordered)
    return ""


def _shaped(schema: Mapping[str, Any], value: str) -> object:
    """A command is a text, or a list with the shell in front."""
    return ["bash", "-lc", value] if schema.get("type") == "array" else value


def _written(name: str, arguments: Mapping[str, Any]) -> str:
    call = {"name": name, "arguments": arguments}
    return f"{CALLS} [{json.dumps(call, ensure_ascii=False)}]"
