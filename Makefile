# `make demo` and `make test` do all their set-up. PYTHON chooses the interpreter, VENV where the environment lies.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
NODE_SDK := build/node
UV_PIP := $(BIN)/uv pip install --quiet --python $(BIN)/python
# The tests run with these releases, whatever came out since; `make constraints` takes the newest.
PINNED := --constraints constraints.txt

# Three workers for two cores: a third of the time, a test waits. Tests of one file share processes and gateways.
TOGETHER := -q -n 3 --dist loadfile --no-loadscope-reorder -m 'not alone' $(PYTEST_ARGS)

# NLTK, which LlamaIndex splits sentences with, refuses files that are hard links.
export UV_LINK_MODE := copy

# Tests start many processes: what Python compiles is kept, so that each begins at once.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-alone test-quick chaos chaos-quick foreign bench bench-quick coverage lint types stores clients extras lowest newest dist docs notebooks live constraints clean

demo: $(VENV)/.demo
	@$(BIN)/lava-mistral demo

test: $(VENV)/.dev node-sdk
	$(BIN)/python -m pytest $(TOGETHER)

# Clusters that lose a worker, and a job that is killed twenty times: nothing else may run beside them.
test-alone: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m alone

# What depends on the interpreter: parsing, prices, calls and connections, without the servers and the frameworks' suites.
test-quick: $(VENV)/.dev node-sdk
	$(BIN)/python -m pytest $(TOGETHER) tests/mistral tests/pricing tests/calls tests/transport tests/test_public_names.py
	$(BIN)/python tests/everyday.py

# … and which branches of the packages they went through.
coverage: $(VENV)/.dev node-sdk
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(TOGETHER)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered --fail-under 95

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(VENV)/.dev
	$(BIN)/mypy

# Every surface against every fault of an upstream, and 10,000 random schedules of faults; about half an hour.
chaos: $(VENV)/.dev
	$(BIN)/python -m tests.chaos.matrix --peers --report docs/reliability.md
	$(BIN)/python -m tests.chaos.endurance --count 10000 --in-flight 20

# A minute of random faults with fifty calls in flight.
chaos-quick: $(VENV)/.dev
	$(BIN)/python -m tests.chaos.endurance --minutes 1 --in-flight 50 --seed 1

# The agent tests that LangGraph's packages publish, and deepagents' agents, with this package's model.
foreign: $(BIN)/uv
	$(BIN)/python tests/foreign/run.py $(BIN)/uv -p no:warnings

# Speed beside the peers, on a quiet machine: writes docs/performance.md; about a quarter of an hour.
bench: $(VENV)/.dev
	$(BIN)/python benchmarks/bench.py

# … and in CI: no row of calls, chunks and imports costs over one and a half times the committed ratio.
bench-quick: $(VENV)/.dev
	$(BIN)/python benchmarks/bench.py --quick

# Each extra installs what it names and nothing of the other framework; a missing one is named on import.
extras: $(BIN)/uv
	$(BIN)/python tests/extras.py $(BIN)/uv $(PYTHON)

# The lower bounds in pyproject.toml are true, and what came out since `make constraints` works too.
EVERYDAY = python -W error::DeprecationWarning:lava_mistral tests/everyday.py
lowest: $(BIN)/uv
	$(BIN)/uv venv --quiet --clear --python $(PYTHON) build/lowest
	$(BIN)/uv pip install --quiet --python build/lowest/bin/python --resolution lowest-direct -e '.[all]'
	build/lowest/bin/$(EVERYDAY)

newest: $(BIN)/uv
	$(BIN)/uv venv --quiet --clear --python $(PYTHON) build/newest
	$(BIN)/uv pip install --quiet --python build/newest/bin/python -e '.[all]'
	build/newest/bin/$(EVERYDAY)

# The sdist and the wheel, built twice: both times the same bytes.
dist: $(BIN)/uv
	rm -rf dist build/again
	$(BIN)/uv build --quiet --out-dir dist
	$(BIN)/uv build --quiet --out-dir build/again
	for file in dist/*.tar.gz dist/*.whl; do cmp $$file build/again/$${file#dist/} || exit 1; done

# The documentation as a site, in build/site; a broken link or reference fails.
docs: $(VENV)/.dev
	$(BIN)/mkdocs build --quiet --strict --site-dir build/site

# The settings in pyproject.toml are for the tests, and name plugins that notebooks do without.
notebooks: $(VENV)/.notebooks
	$(BIN)/python -m pytest -c /dev/null --rootdir . -p no:cacheprovider --nbmake --nbmake-timeout=600 --durations 0 notebooks

# The example over five vector stores in both frameworks. They need older releases than the tests: an environment apart.
stores: build/stores/.done
	build/stores/bin/python -W ignore -m pytest -c /dev/null --rootdir . -q -p no:cacheprovider examples/vector_stores

# Other libraries over the transports, with the newest release of each; docs/guides/clients.md has the table.
clients: build/clients/.done
	build/clients/bin/python -W ignore tests/foreign/http_clients.py docs/guides/clients.md

build/clients/.done: $(BIN)/uv pyproject.toml
	$(BIN)/uv venv --quiet --clear --python $(PYTHON) build/clients
	$(BIN)/uv pip install --quiet --python build/clients/bin/python mistralai openai 'pydantic-ai-slim[mistral]' instructor \
	langchain-mistralai litellm -e '.[gateway,httpx2]'
	@touch $@

build/stores/.done: $(BIN)/uv pyproject.toml examples/vector_stores/requirements.txt
	$(BIN)/uv venv --quiet --clear --python $(PYTHON) build/stores
	$(BIN)/uv pip install --quiet --python build/stores/bin/python -r examples/vector_stores/requirements.txt -e .
	@touch $@

# Against real Lava, for less than a cent.
live:
	@if [ -z "$$LAVA_SECRET_KEY$$LAVA_FORWARD_TOKEN" ]; then \
	echo "live: not run, there is no LAVA_SECRET_KEY or LAVA_FORWARD_TOKEN in the environment"; \
	else $(MAKE) --no-print-directory $(VENV)/.dev && $(BIN)/python -m pytest -p no:cacheprovider live; fi

# The newest releases that fit together, for every CPython and system.
constraints: $(BIN)/uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-annotate --no-header --no-emit-index-url \
	--all-extras --group dev --group notebooks --output-file constraints.txt pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-annotate --no-header --no-emit-index-url \
	--extra langchain --extra llama-index --extra gateway --group stores --output-file examples/vector_stores/requirements.txt pyproject.toml

clean:
	rm -rf $(VENV) build dist .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

$(VENV)/.demo: $(BIN)/uv pyproject.toml
	$(UV_PIP) -e '.[cli,gateway]'
	@touch $@

$(VENV)/.dev: $(BIN)/uv pyproject.toml constraints.txt
	$(UV_PIP) $(PINNED) --group dev -e '.[all]'
	@touch $@

$(VENV)/.notebooks: $(BIN)/uv pyproject.toml constraints.txt
	$(UV_PIP) $(PINNED) --group notebooks -e '.[all]'
	@touch $@

# Lava's own SDK: an oracle of the tests. They skip it, and say so, on a machine without npm.
.PHONY: node-sdk
node-sdk:
	@if command -v npm >/dev/null && [ ! -d $(NODE_SDK)/node_modules ]; then mkdir -p $(NODE_SDK) && \
	npm install --silent --no-audit --no-fund --no-package-lock --prefix $(NODE_SDK) @lavapayments/nodejs@11.2.0; fi
