"""The wheel, installed outside of the repository: what a user of `pip install formgate` has.

The dependencies are those of the environment that runs the tests, by a path. With
FORMGATE_FRESH_INSTALL=1 pip installs them all anew, which takes minutes and gigabytes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
import venv
import zipfile
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = ("gateway", "constrain", "parsers", "engine", "kernels", "embedded")
FRESH = os.environ.get("FORMGATE_FRESH_INSTALL") == "1"
MOST_BYTES = 26_000_000  # of the wheel; the embedded model is nearly all of it
START_SECONDS = 300

pytestmark = pytest.mark.serve


def run(*command: str | Path, cwd: Path, given: str = "") -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=clean_environment(), input=given, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def clean_environment() -> dict[str, str]:
    """Without what would lead Python back to the repository."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outside")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools would leave its folders in the repository."""
    source = tmp_path_factory.mktemp("source")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    made = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps")
    run(*pip, "--no-build-isolation", "--wheel-dir", made, source, cwd=made)
    (path,) = made.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def program(wheel: Path, outside: Path) -> Path:
    """`formgate` in a virtual environment of its own."""
    folder = outside / "venv"
    venv.create(folder, with_pip=FRESH, symlinks=True)
    python = folder / "bin" / "python"
    if FRESH:
        run(python, "-m", "pip", "install", "--quiet", wheel, cwd=outside)
        return folder / "bin" / "formgate"
    (packages,) = folder.glob("lib/python*/site-packages")
    # A path in a .pth file is searched last, and its own .pth files, as that of an editable
    # installation, are not read.
    (packages / "dependencies.pth").write_text("\n".join(path_of_dependencies()))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", f"--python={python}")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=outside)
    return folder / "bin" / "formgate"


def path_of_dependencies() -> list[str]:
    return [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]


def test_the_wheel_holds_every_module_and_the_model(wheel: Path) -> None:
    assert wheel.stat().st_size <= MOST_BYTES
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    modules = {
        f"formgate/{path.relative_to(ROOT).as_posix()}"
        for name in FOLDERS
        for path in (ROOT / name).rglob("*.py")
    }
    assert modules <= names
    assert "formgate/embedded/model.safetensors" in names
    assert "formgate/embedded/chat_template.jinja" in names
    inside = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert inside == {"formgate"}


def test_the_commands_are_there(program: Path, outside: Path) -> None:
    where = run(
        *(program.parent / "python", "-c"),
        "import formgate.gateway, formgate.kernels; print(formgate.gateway.__file__)",
        cwd=outside,
    )
    assert Path(where.strip()).is_relative_to(outside / "venv")
    version = SETTINGS["project"]["version"]
    assert run(program, "--version", cwd=outside) == f"formgate {version}\n"
    assert "--max-model-len" in run(program, "serve", "--help", cwd=outside)
    schema = '{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}'
    report = json.loads(run(program, "check", "-", "--json", cwd=outside, given=schema))
    assert report["shortest"]["value"] == {"a": 1}


def test_it_serves_the_embedded_model(program: Path, outside: Path) -> None:
    command = [str(program), "serve", "--host", "127.0.0.1", "--port", "0"]
    log = (outside / "log").open("w+")
    with (
        log,
        subprocess.Popen(
            command, cwd=outside, env=clean_environment(), text=True,
            stdout=subprocess.PIPE, stderr=log,
        ) as process,
    ):  # fmt: skip
        stuck = threading.Timer(START_SECONDS, process.kill)
        stuck.start()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            stuck.cancel()
            ready = re.match(r"formgate ready: (\S+)", line)
            assert ready is not None, (outside / "log").read_text()
            body = {
                "messages": [{"role": "user", "content": "I love it!"}],
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "mood", "schema": {"enum": ["good", "bad"]}},
                },
            }
            url = ready[1] + "/v1/chat/completions"
            choice = httpx.post(url, json=body, timeout=120).json()["choices"][0]
            assert json.loads(choice["message"]["content"]) in ("good", "bad")
        finally:
            stuck.cancel()
            process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
