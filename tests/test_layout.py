"""The house rules that no linter knows: what is packaged, and who may import whom."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("gateway", "constrain", "parsers", "engine", "kernels", "embedded")
STDLIB = frozenset(sys.stdlib_module_names)

# Third-party packages that a room may import; formgate rooms are listed as "formgate.<room>".
# None: anything that is not forbidden below.
ALLOWED: dict[str, frozenset[str] | None] = {
    "kernels": frozenset({"torch", "triton", "formgate.kernels"}),
    "constrain": frozenset(
        {
            "numpy",
            "msgspec",
            "llguidance",
            "outlines",
            "outlines_core",
            "jsonschema",
            "jsonschema_rs",
            "referencing",
            "formgate.constrain",
        }
    ),
    "parsers": frozenset({"formgate.parsers"}),
    "engine": frozenset(
        {
            "torch",
            "numpy",
            "gguf",
            "safetensors",
            "msgspec",
            "zmq",
            "formgate.engine",
            "formgate.kernels",
        }
    ),
    "embedded": frozenset(),
    "gateway": None,
}
FORBIDDEN: dict[str, frozenset[str]] = {"gateway": frozenset({"formgate.kernels", "triton"})}


def modules_of(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    """Top-level names that a module imports; `formgate.x.y` is cut to `formgate.x`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            if node.module == "formgate":
                names.update(f"formgate.{alias.name}" for alias in node.names)
            else:
                names.add(node.module)
    return {
        ".".join(name.split(".")[:2]) if name.startswith("formgate.") else name.split(".")[0]
        for name in names
    }


# Inner rooms from the top down: each may import those of the lines below it, and itself. A name
# that is no folder is a module at the room's root; "" is the root's other modules.
LEVELS: dict[str, tuple[tuple[str, ...], ...]] = {
    "gateway": (
        ("entry",),
        ("library", "cli"),
        ("commands",),
        ("serving",),
        ("http",),
        ("apis",),
        ("answers",),
        ("processes",),
        ("model",),
        ("protocol",),
        ("",),
    ),
    "constrain": (
        ("ledger_page", "schema_report"),
        ("compiler",),
        ("answer_check", "answer_size"),
        ("answer_tree",),
        ("masks",),
        ("rules",),
        ("algebra",),
        ("notations",),
        ("schema", "regex"),
        ("grammar",),
        ("",),
    ),
    "parsers": (
        ("derivation",),
        ("stream", "grammar"),
        ("families", "structural"),
        ("formats",),
        ("text", "tree"),
    ),
    "engine": (
        ("loop",),
        ("engine",),
        ("flight",),
        ("execution",),
        ("ranks",),
        ("lora",),
        ("scheduling", "sampling", "loading"),
        ("models",),
        ("attention",),
        ("layers",),
        ("",),
    ),
}


def inner_room(room: str, module: str) -> str:
    """`formgate.engine.models.spec` -> `models`; of a module at the root its name or ""."""
    first = module.split(".")[2]
    named = {name for level in LEVELS[room] for name in level}
    return first if first in named or (ROOT / room / first).is_dir() else ""


def inner_imports(room: str, path: Path) -> Iterator[tuple[str, str]]:
    """(inner room of the module, inner room that it imports)"""
    module = "formgate." + path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(f"formgate.{room}."):
            yield inner_room(room, module), inner_room(room, str(node.module))


@pytest.mark.parametrize("room", LEVELS)
def test_inner_rooms_import_downwards(room: str) -> None:
    level_of = {name: level for level, names in enumerate(LEVELS[room]) for name in names}
    for path in modules_of(room):
        if path.stem.startswith("__"):
            continue
        for own, imported in inner_imports(room, path):
            downwards = level_of[own] < level_of[imported] or own == imported
            assert downwards, f"{path.relative_to(ROOT)} imports {imported or 'the root'}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_folder_is_a_table_of_contents(room: str) -> None:
    """Twenty modules at most, and a line that says what the folder owns."""
    for folder in {path.parent for path in modules_of(room)}:
        names = [path.name for path in folder.glob("*.py")]
        if len(names) > 1:
            assert len(names) <= 21, f"{folder.relative_to(ROOT)} holds {len(names)} modules"
        init = folder / "__init__.py"
        if init.exists():
            assert ast.get_docstring(ast.parse(init.read_text())), f"{folder.relative_to(ROOT)}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    allowed = ALLOWED[room]
    for path in modules_of(room):
        third_party = imports_of(path) - STDLIB
        if allowed is not None:
            assert third_party <= allowed, f"{path.relative_to(ROOT)}: {third_party - allowed}"
        forbidden = third_party & FORBIDDEN.get(room, frozenset())
        assert not forbidden, f"{path.relative_to(ROOT)}: {forbidden}"


def test_nothing_imports_a_room_without_its_package() -> None:
    """A flat `kernels` on the path would shadow the package that transformers probes for."""
    for path in ROOT.rglob("*.py"):
        if any(part.startswith(".") for part in path.relative_to(ROOT).parts):
            continue
        flat = imports_of(path) & set(ROOMS)
        assert not flat, f"{path.relative_to(ROOT)} imports {flat} without `formgate.`"


def test_kernels_is_no_importable_package_by_itself() -> None:
    assert not list((ROOT / "kernels").rglob("__init__.py"))


def test_every_sub_package_is_listed() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        "formgate." + path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for room in ROOMS
        for path in modules_of(room)
    }
    assert found == set(setuptools["packages"])
    for package, folder in setuptools["package-dir"].items():
        assert package == "formgate." + folder.replace("/", ".")


MOST_LINES = 400  # of a module
MOST_FUNCTION_LINES = 60
LONGER_FUNCTIONS = {
    (
        "engine/execution/runner.py",
        "__init__",
    ): "the order in which memory is taken, which decides the cache",
    ("gateway/answers/choice.py", "feed"): "one token: text, stop strings, trace, ending",
    ("gateway/metrics.py", "__init__"): "a list: every metric with its name and help",
    ("kernels/attention_kernels.py", "_attend_keys"): "one kernel",
    ("kernels/attention_kernels.py", "attend_kernel"): "one kernel",
    ("kernels/experts/choose_experts.py", "_choose_experts_kernel"): "one kernel",
    ("kernels/experts/expert_linear.py", "_expert_linear_kernel"): "one kernel",
    ("kernels/experts/expert_linear.py", "expert_linear_triton"): "a kernel's grid and arguments",
    ("kernels/experts/packed_expert_linear.py", "_packed_expert_kernel"): "one kernel",
    ("kernels/latent_attention.py", "_latent_kernel"): "one kernel",
    ("kernels/latent_attention.py", "_launch"): "a kernel's grid and arguments",
    ("kernels/lora_shrink_expand.py", "_expand_kernel"): "one kernel",
    ("kernels/lora_shrink_expand.py", "add_lora_triton"): "a kernel's grid and arguments",
    ("kernels/paged_attention.py", "paged_attention_triton"): "a kernel's grid and arguments",
    ("kernels/prompt_attention.py", "_prompt_kernel"): "one kernel",
    ("kernels/quantized/grouped_linear.py", "_grouped_kernel"): "one kernel",
    (
        "kernels/quantized/grouped_linear.py",
        "grouped_linear_triton",
    ): "a kernel's grid and arguments",
    ("kernels/rotary_write_kv.py", "_rotary_write_kv_kernel"): "one kernel",
    ("kernels/sample_limits.py", "_pass_kernel"): "one kernel",
    ("kernels/sample_limits.py", "lowest_kept"): "a kernel's grid and arguments",
    ("kernels/write_latent.py", "_write_latent_kernel"): "one kernel",
}


@pytest.mark.parametrize("room", ROOMS)
def test_modules_and_functions_can_be_read_at_once(room: str) -> None:
    for path in modules_of(room):
        name, source = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        assert source.count("\n") <= MOST_LINES, f"{name} has more than {MOST_LINES} lines"
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                known = (name, node.name) in LONGER_FUNCTIONS
                assert lines <= MOST_FUNCTION_LINES or known, f"{name}: {node.name}, {lines} lines"


def test_no_catch_all_modules() -> None:
    for room in ROOMS:
        for path in modules_of(room):
            assert path.stem not in {"utils", "util", "common", "helpers", "misc"}, path


# Patterns for Python's `re` that are put together: each from parts of our own, or escaped. A text
# or a pattern of a client must never become one, as `re` backtracks and holds the GIL meanwhile;
# `constrain.ecma_regex` runs those.
OWN_PATTERNS = {
    ("constrain/masks/token_bytes.py", "pattern"),
    ("constrain/notations/gbnf.py", "f'[0-9a-fA-F]{{{_HEX[escape]}}}'"),
    # A checkpoint's config names modules by patterns; whoever serves it trusts it.
    ("engine/layers/quantized/compressed_tensors.py", "one.removeprefix('re:')"),
    ("engine/layers/quantized/gptq.py", "rule.removeprefix('-:')"),
    ("gateway/model/tokenizer.py", "'|'.join(map(re.escape, texts))"),
    ("parsers/formats/parameters.py", "name_pattern"),
    ("parsers/text/scanner.py", "'|'.join(map(re.escape, ordered)) or '(?!)'"),
    ("parsers/text/transcode.py", "f'[0-9a-fA-F]{{{digits}}}'"),
    ("parsers/text/transcode.py", "f'[{quote}\\\\\\\\{SYMBOL_RANGE}]'"),
}
TAKE_PATTERNS = {"compile", "match", "fullmatch", "search", "sub", "subn", "split", "findall"} | {
    "finditer"
}


def built_patterns(path: Path) -> set[tuple[str, str]]:
    """What a module gives `re` beside literals and constants of a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="re"), attr=name), args=[pattern, *_]
            ) if name in TAKE_PATTERNS:
                parts = [part.id for part in ast.walk(pattern) if isinstance(part, ast.Name)]
                if any(part != part.upper() for part in parts):
                    found.add((path.relative_to(ROOT).as_posix(), ast.unparse(pattern)))
    return found


def test_no_pattern_of_a_client_meets_a_backtracking_engine() -> None:
    modules = [path for room in ROOMS for path in modules_of(room)]
    assert set().union(*map(built_patterns, modules)) == OWN_PATTERNS
    # The oracle of the tests runs patterns by `re`, too.
    oracle = "from formgate.constrain.schema.validate import"
    assert not [path for path in modules if oracle in path.read_text(encoding="utf-8")]
