# make quickstart   the whole loop on real conversations; the second time it says in seconds that all is done
# make test         every test, the slow ones too
# make lint         ruff and mypy
# make docs         write docs/reference/ again from the code
# make clean        remove what make made

# Which torch to install. On Linux a plain torch brings its CUDA libraries (gigabytes); name another build, or a local
# wheel, to suit your hardware: make quickstart TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
# Any Python from 3.11 on.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
# Tests side by side; each with one thread.
JOBS ?= 2
PYTEST_ARGS ?=

BIN = $(VENV)/bin
# Stamps of what is installed, named by what it depends on: a changed pyproject.toml or TORCH installs again.
DEPS := $(shell { cat pyproject.toml; echo '$(TORCH)'; } | cksum | cut -d' ' -f1)
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: quickstart test lint docs clean chromium postgresql

quickstart: $(VENV)/.demo-$(DEPS)
	$(BIN)/tether run recipes/quickstart.toml

test: $(VENV)/.dev-$(DEPS) chromium postgresql
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/.dev-$(DEPS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.dev-$(DEPS)
	$(BIN)/python -m tether.reference

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.torch-$(DEPS):
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || \
		{ echo "$(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv"; exit 1; }
	@echo "installing $(TORCH) into $(VENV)"
	@$(PIP) $(TORCH)
	@touch $@

$(VENV)/.demo-$(DEPS): $(VENV)/.torch-$(DEPS)
	@echo "installing Tether into $(VENV)"
	@$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.dev-$(DEPS): $(VENV)/.torch-$(DEPS)
	@echo "installing Tether into $(VENV)"
	@$(PIP) --editable '.[demo,dev]'
	@touch $@ $(VENV)/.demo-$(DEPS)

# Pages are opened in a real browser, and the preference store runs on a real PostgreSQL. Without one of them, and
# without the means to install it, its tests are skipped.
apt = [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && { \
	apt-get install -qq -y $1 >/dev/null 2>&1 || \
	{ apt-get update -qq && apt-get install -qq -y $1; } >/dev/null 2>&1; }

chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	{ $(call apt,chromium); } || echo "no chromium here: the browser tests will be skipped"

postgresql:
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || \
	{ $(call apt,postgresql); } || echo "no PostgreSQL here: the tests that need it will be skipped"
