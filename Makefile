# make demo       build and verify the demo bundle, then classify sounds with it in an environment without torch
# make test       the tests (a quarter of an hour on two cores, installs included)
# make test-full  the tests, and the full-size checks
# make lint       ruff, mypy, hadolint (the Dockerfiles)
# make bench      claprt bench of a full-size bundle with everything it has, into bench/results (a quiet machine, please)
# make readme     the README's tables, from bench/results
# make bench-cpu  how fast this CPU is with claprt, transformers and the stock export, into bench/results (a quiet
#                 machine, please; the first run builds what it measures); BENCH_ARGS="--help" lists its options
# make gpu-check  what only an NVIDIA GPU can show: the log-Mel kernel's values, sanitizers, times; into bench/results
#                 (needs nvcc; runs with .venv if it is there, else with PYTHON, which needs NumPy and pytest);
#                 GPU_ARGS="--list" lists its steps, --only and --skip choose among them, --help lists all options
# Variables: PYTHON (3.10 or newer), WORKERS (of make test, each on a core of its own; 2), PIP_ARGS (for pip install,
#                 such as another index for a CPU build of torch).

PYTHON ?= python3
PIP_ARGS ?=
WORKERS ?= 2
NAME ?= cpu
AUDIO ?=
VENV := .venv
RUNTIME_VENV := .venv-runtime
BIN := $(VENV)/bin
RUNTIME_BIN := $(RUNTIME_VENV)/bin
DEMO := build/demo
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := install --quiet --constraint constraints.txt $(PIP_ARGS)
# pip would compile all that it installs, on one core: half of that is tests, and models that nobody here loads.
NOT_COMPILED := /tests?/|/transformers/models/(?!auto|clap|roberta)

.PHONY: demo test test-full lint format bench readme bench-cpu gpu-check clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed $(RUNTIME_VENV)/.installed
	@rm -rf $(DEMO) && mkdir -p $(DEMO)
	@echo "== claprt build demo (export environment: torch, transformers)"
	@$(BIN)/claprt build demo -o $(DEMO)/bundle
	@echo
	@echo "== claprt classify (runtime environment: no torch)"
	@$(RUNTIME_BIN)/python -m claprt_export.demo.write_sounds $(DEMO)/sounds
	@cd $(DEMO) && ../../$(RUNTIME_BIN)/claprt classify bundle sounds/*.* --labels-file labels.txt
	@echo
	@$(RUNTIME_BIN)/python -m claprt_export.demo.environment

test: $(VENV)/.installed
	@./install-browser.sh
	$(BIN)/python -m pytest -m "not full" -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-full: $(VENV)/.installed
	@./install-browser.sh
	$(BIN)/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint docker/Dockerfile.*

# Full size, all parts, peers: half an hour on two quiet cores. NAME is that of the result.
bench: $(VENV)/.installed
	$(BIN)/python -m claprt_bench.prepare build/bench $(if $(AUDIO),--audio $(AUDIO))
	$(BIN)/claprt bench build/bench/htsat-tiny/bundle --backend ort-cpu --precision fp32,int8 --batch 1,8 --rate 2,5,10,15 \
	  --scaling all --against transformers,torch-compile --checkpoint build/bench/htsat-tiny/random-htsat-tiny \
	  --json bench/results/speed-$(NAME).json --html build/bench/report.html $(if $(AUDIO),--audio $(AUDIO)) $(BENCH_ARGS)

readme: $(VENV)/.installed
	$(BIN)/python -m claprt_bench.readme

bench-cpu: $(VENV)/.installed
	$(BIN)/python -m claprt_bench.cpu $(BENCH_ARGS)

gpu-check:
	PYTHONPATH=runtime:export:kernels:bench$${PYTHONPATH:+:$$PYTHONPATH} $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m claprt_bench.gpu $(GPU_ARGS)

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/.installed: pyproject.toml constraints.txt
	@./make-venv.sh $(PYTHON) $(VENV)
	@echo "== installing claprt with what building, testing and linting need (torch among it: minutes)"
	@$(PIP) install --quiet 'pip>=23.1'
	@# nvcc takes as long as the packages do: both at once. pip waits for it where it builds claprt, and says why it failed.
	@$(BIN)/python kernels/claprt_kernels/compile.py >/dev/null 2>&1 & \
	$(PIP) $(INSTALL) --no-compile --editable '.[cpu,av,export,bench,rtx,dev]' || { wait; exit 1; }; wait
	@$(BIN)/python -m compileall -qq -j 0 -x '$(NOT_COMPILED)' $(VENV)/lib || true
	@touch $@

# Not editable: the wheel is what users get, and it must run by itself. Without pip: nothing but claprt[cpu] is in there.
$(RUNTIME_VENV)/.installed: $(VENV)/.installed $(shell find runtime export/claprt_export kernels bench -name '*.py')
	@$(BIN)/python -m venv --clear --without-pip $(RUNTIME_VENV)
	@echo "== installing claprt[cpu]"
	@$(PIP) --python $(RUNTIME_BIN)/python $(INSTALL) '.[cpu]'
	@touch $@

clean:
	rm -rf $(VENV) $(RUNTIME_VENV) build dist .mypy_cache .pytest_cache .ruff_cache
