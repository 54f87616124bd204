# Two commands on a fresh machine: `make serve` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL ?=
ARGS ?=
# A file's tests stay together: they share what is slow to start.
PYTEST_PARALLEL := -n auto --maxprocesses 4 --dist loadfile

CLIENTS := .venv-clients
AGENTS := .agents

.PHONY: serve test test-browser test-clients agents test-agents test-gpu check format links clean

serve: $(VENV)/.installed
	$(BIN)/formgate serve $(MODEL) $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PYTEST_PARALLEL) $(ARGS)

# The playground in a real browser: the system's Chromium, or Playwright's where that can be had.
# SCREENSHOTS=docs/images keeps its pictures there.
test-browser: $(VENV)/.installed-browser
	@[ -n "$$(which chromium chromium-browser google-chrome)" ] || \
		$(BIN)/python -m playwright install chromium || true
	SCREENSHOTS=$(SCREENSHOTS) $(BIN)/python -m pytest tests/browser -W ignore $(ARGS)

# The client libraries that people call a server with, against a real one. They have an environment
# of their own: they want much that the server does not, and each its own versions.
test-clients: $(CLIENTS)/.installed
	$(CLIENTS)/bin/python -m pytest tests/clients -W ignore $(ARGS)

# Coding agents, each run on a fixed plan by a real server: those that `make agents` has installed.
test-agents: $(VENV)/.installed
	$(BIN)/python benchmarks/agents/run.py $(AGENTS) $(ARGS)

agents:
	@mkdir -p $(AGENTS)
	npm install --no-audit --no-fund --prefix $(AGENTS) @openai/codex @anthropic-ai/claude-code \
		opencode-ai @qwen-code/qwen-code
	$(PYTHON) -m venv $(AGENTS)
	-$(AGENTS)/bin/python -m pip install --quiet aider-chat

# What a reviewer runs before a merge.
check: $(VENV)/.installed-dev links
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	MYPYPATH=.links $(BIN)/mypy -p formgate
	$(BIN)/python -m pytest $(PYTEST_PARALLEL) $(ARGS)

# Kernels and engine on a CUDA device, from a bare checkout.
test-gpu: links
	PYTHONPATH=.links $(PYTHON) -m pytest -m gpu $(ARGS)

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Static tools do not see setuptools' editable hook; a folder of links they do.
links:
	@mkdir -p .links/formgate
	@for room in gateway constrain parsers engine kernels embedded; do \
		ln -sfn ../../$$room .links/formgate/$$room; \
	done

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --progress-bar on -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --progress-bar on -e ".[dev]"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-browser: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --progress-bar on -e ".[dev,browser]"
	@touch $@

$(CLIENTS)/.installed: pyproject.toml
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --progress-bar on -e ".[dev,clients]"
	$(CLIENTS)/bin/python -m pip install --quiet --no-deps instructor
	@touch $@

clean:
	rm -rf $(VENV) $(CLIENTS) $(AGENTS) .links build *.egg-info
