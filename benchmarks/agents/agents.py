"""The coding agents and their own documented settings that point them at a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

MODEL = "planned"
# A model of OpenAI's that Codex gives a tool of its own: `apply_patch`, held to a Lark grammar.
KNOWN_TO_CODEX = "gpt-5.5"


@dataclass(frozen=True)
class Run:
    """One start of an agent in a folder that it works in and finds its settings in."""

    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)  # of settings, by path below the home


@dataclass(frozen=True)
class Agent:
    name: str
    package: str  # on npm, or aider's on PyPI
    binary: str
    run: Callable[[str, str, Path], Run]  # of the server's URL, the task, and the home folder


def _codex(url: str, task: str, home: Path) -> Run:
    config = f"""model = "{KNOWN_TO_CODEX}"
model_provider = "formgate"
[model_providers.formgate]
name = "formgate"
base_url = "{url}/v1"
wire_api = "responses"
"""
    flags = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
    environment = {"CODEX_HOME": str(home / ".codex")}
    return Run(["exec", *flags, task], environment, {".codex/config.toml": config})


def _claude(url: str, task: str, home: Path) -> Run:
    environment = {
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_AUTH_TOKEN": "none",
        "ANTHROPIC_MODEL": MODEL,
        "ANTHROPIC_SMALL_FAST_MODEL": MODEL,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    return Run(["-p", task, "--allowedTools", "Bash,Read,Edit"], environment)


def _opencode(url: str, task: str, home: Path) -> Run:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{url}/v1"},
        "models": {MODEL: {"limit": {"context": 200_000, "output": 8_000}}},
    }
    config = {
        "provider": {"formgate": provider},
        "permission": "allow",
        "autoupdate": False,
        "share": "disabled",
    }
    files = {".config/opencode/opencode.json": json.dumps(config)}
    return Run(["run", "-m", f"formgate/{MODEL}", task], {}, files)


def _qwen(url: str, task: str, home: Path) -> Run:
    environment = {
        "OPENAI_BASE_URL": f"{url}/v1",
        "OPENAI_API_KEY": "none",
        "OPENAI_MODEL": MODEL,
    }
    return Run(["--auth-type", "openai", "--yolo", "-p", task], environment)


def _aider(url: str, task: str, home: Path) -> Run:
    environment = {"OPENAI_API_BASE": f"{url}/v1", "OPENAI_API_KEY": "none"}
    quiet = ["--no-git", "--no-check-update", "--analytics-disable", "--no-show-model-warnings"]
    flags = ["--model", f"openai/{MODEL}", "--edit-format", "diff", "--yes-always", *quiet]
    return Run([*flags, "--message", task, "greeting.txt"], environment)


AGENTS = (
    Agent("codex", "@openai/codex", "codex", _codex),
    Agent("claude", "@anthropic-ai/claude-code", "claude", _claude),
    Agent("opencode", "opencode-ai", "opencode", _opencode),
    Agent("qwen", "@qwen-code/qwen-code", "qwen", _qwen),
    Agent("aider", "aider-chat", "aider", _aider),
)
