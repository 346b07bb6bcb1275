# Two commands on a fresh machine with Python and make: `make demo` and `make test`.

PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Companies add certificates of their own to the system's; a machine without any relies on uv's.
CERTIFICATES := $(if $(wildcard /etc/ssl/certs/ca-certificates.crt),--system-certs)
RUN_DEMO := runs/demo
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
# The tests of a file share what they prepare, and run on one thread.
IN_PARALLEL := --numprocesses auto --dist loadfile

.PHONY: demo test test-slow check site environment lock clean

# The main job on the built-in network: images, fine-tuning, integers, ONNX Runtime, the gate, real accuracy.
demo: $(READY)
	$(BIN)/intraq-deploy quantize builtin:resnet20-cifar10 --bits 4 --eval builtin:cifar10-sample --out $(RUN_DEMO)

test: $(READY)
	$(BIN)/python -m pytest $(IN_PARALLEL) --durations 20

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow $(IN_PARALLEL)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python benchmarks/typecheck.py
	$(BIN)/vermin --quiet --no-tips --target=3.8- targets/device/runner
	$(MKDOCS)

# The documentation with search, in site/. Warnings, such as links to nothing, are errors.
site: $(READY)
	$(MKDOCS)

environment: $(READY)

# The locked environment of uv.lock, with this package in editable form. uv itself comes into the environment by pip.
$(READY): pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else \
	  f"Python {sys.version.split()[0]} was found: 3.11 to 3.13 is needed, e.g. make PYTHON=python3.12 demo")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make environments: install its venv package (Debian: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	UV_PROJECT_ENVIRONMENT=$(VENV) $(BIN)/uv sync $(CERTIFICATES) --quiet --frozen --inexact --extra dev
	@touch $(READY)

lock: $(READY)
	$(BIN)/uv lock $(CERTIFICATES)

clean:
	rm -rf $(VENV) runs site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
