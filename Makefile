# Every target does its own set-up: Python >= 3.11 and make are all it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One process more than cores: many tests wait. A file stays in one process, the slowest start first.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
PARALLEL := -n $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install demo bench packages serve test test-fast test-lowest test-repeat check format dashboard docs constraints audit clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

# A PYTHON that is named, and is another than .venv was made with: .venv is made again.
ifneq ($(origin PYTHON),file)
ifneq ($(wildcard $(STAMP)),)
ifneq ($(shell $(PYTHON) -V 2>&1),$(shell $(BIN)/python -V 2>&1))
.PHONY: $(STAMP)
CLEAR := --clear
endif
endif
endif

install: $(STAMP) ## Make .venv with the pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c '' || \
	  { echo "$(PYTHON) does not run: name another Python, as in 'make PYTHON=python3.12'"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11: name a newer one, as in 'make PYTHON=python3.12'"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' || \
	  { echo "$(PYTHON) comes without venv: install it first (on Debian the package python3-venv)"; exit 1; }
	@# One line a step, with the time since the start: packages take a minute to come.
	@started=$$(date +%s); say() { echo "$$(($$(date +%s) - started)) s: $$*"; }; \
	say "make $(VENV)"; $(PYTHON) -m venv $(CLEAR) $(VENV) || exit 1; \
	say "find the pinned packages"; \
	pip="$(BIN)/python -m pip --disable-pip-version-check install --no-deps --progress-bar off"; \
	{ { $$pip --require-hashes -r constraints.txt && $$pip --no-build-isolation -e . && \
	    $(BIN)/python -m pip check; } 2>&1 || echo "pip failed"; } | { found=0; \
	  while read -r line; do echo "$$line" >&3; case "$$line" in \
	    Collecting*|Processing*) found=$$((found + 1)); [ $$((found % 20)) -ne 0 ] || say "$$found packages found";; \
	    "Installing collected packages: activity-tracker") say "install this checkout";; \
	    "Installing collected"*) say "install $$found packages";; \
	    "pip failed") cat $(VENV)/install.log; exit 1;; \
	  esac; done; say "installed"; } 3>$(VENV)/install.log
	@touch $@

demo: $(STAMP) ## Replay the sample fleet through the service; EXIT=1 leaves when done
	$(BIN)/python -m benchmarks demo $(if $(EXIT),--exit)

bench: $(STAMP) ## Run every benchmark in under ten minutes; COMPARE=results.json prints an earlier run beside it
	$(BIN)/python -m benchmarks all $(if $(COMPARE),--compare $(COMPARE))

packages: ## Install the system packages that some tests and benchmarks like to have (Debian, as root)
	@# As command:package if these differ. RUNLEVEL=1 keeps packages from starting their servers.
	@# Of prometheus the binaries alone: the package as a whole would start a server.
	@update() { [ -n "$$updated" ] || apt-get update -qq && updated=yes; }; \
	for name in curl wrk pgbouncer haproxy nginx chromium-headless-shell zsh fish shellcheck systemd-analyze:systemd; do \
	  PATH="$$PATH:/usr/sbin" command -v $${name%:*} >/dev/null || { update && \
	    RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $${name#*:}; } || \
	  echo "not installed: $$name; tests that need it are skipped, and benchmarks do without it"; \
	done; \
	{ command -v promtool && command -v prometheus; } >/dev/null || { \
	  update && unpacked=$$(mktemp -d) && cd $$unpacked && \
	  apt-get download -qq -o APT::Sandbox::User=root prometheus && dpkg -x prometheus_*.deb . && \
	  install usr/bin/promtool usr/bin/prometheus /usr/local/bin/ && rm -r $$unpacked; } || \
	  echo "not installed: prometheus and promtool; tests that need them are skipped"

serve: $(STAMP) ## Run the service on 127.0.0.1:8080
	$(BIN)/python -m api serve

test: $(STAMP) ## Run every test against a Postgres of its own; PYTHON=python3.13 with another Python
	$(BIN)/python -m pytest $(PARALLEL)

test-fast: $(STAMP) ## Run the tests to run before each commit, in under a minute; prints what it leaves out
	$(BIN)/python -m pytest $(PARALLEL) --fast

# Every run has the next seed. Only the order of the tests is random: what a test draws has a seed of its own.
test-repeat: FILES ?= tests
test-repeat: COUNT ?= 10
test-repeat: SEED ?= $(shell date +%s)
test-repeat: $(STAMP) ## Run every test COUNT=10 times in random order until one fails; FILES=tests/tracker, SEED=1
	@seed=$(SEED); for run in $$(seq $(COUNT)); do \
	  echo "run $$run of $(COUNT), seed $$seed"; \
	  $(BIN)/python -m pytest -q -x -p randomly $(PARALLEL) \
	    --randomly-seed=$$seed --randomly-dont-reset-seed $(FILES) || { \
	    echo "run $$run failed; to repeat it: make test-repeat COUNT=1 SEED=$$seed FILES='$(FILES)'"; exit 1; }; \
	  seed=$$((seed + 1)); \
	done

# The library admits an older aiohttp than the service, so its own tests run once more with that.
LOWEST := .venv-lowest
LIBRARY_TESTS := $(addprefix tests/tracker/test_,$(addsuffix .py,blame buffer flush_loop flush_loop_stop flusher \
  flusher_rows hidden_rows inputs journal journal_degraded journal_disk_errors journal_faults journal_format \
  journal_owner journal_segments middleware order postgres postgres_errors table_check tracker))
test-lowest: ## Run the tests of test-fast with the lowest versions that pyproject.toml admits
	$(PYTHON) -m venv --clear $(LOWEST)
	$(PYTHON) .ci/lowest.py service embedded > $(LOWEST)/service.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(LOWEST)/service.txt -e '.[service,embedded,dev]'
	$(LOWEST)/bin/python -m pytest $(PARALLEL) --fast
	$(PYTHON) .ci/lowest.py > $(LOWEST)/library.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $(LOWEST)/library.txt
	$(LOWEST)/bin/python -m pytest $(LIBRARY_TESTS)

check: $(STAMP) ## Format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Format the code, and apply the fixes that ruff knows
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

dashboard: $(STAMP) ## Generate api/monitoring/dashboard.json, after a change of its source
	$(BIN)/python -m api.monitoring.dashboard

docs: $(STAMP) ## Make the site of the documentation in site/; a broken link fails
	$(BIN)/python docs/generate.py
	$(BIN)/python -m sphinx -q -W --keep-going -c docs . site
	@echo "the site is in site/: open site/index.html"

# For every supported Python and platform, with the hashes of all files: what is installed is what was pinned.
LOCK = echo setuptools | $(VENV)/constraints/bin/uv pip compile pyproject.toml - --quiet --universal \
  --python-version 3.11.5 --generate-hashes --no-header --no-annotate --no-emit-index-url

constraints: ## Pin the newest versions that pyproject.toml admits, with hashes
	rm -rf $(VENV)/constraints && $(PYTHON) -m venv $(VENV)/constraints
	$(VENV)/constraints/bin/python -m pip install --quiet uv
	$(LOCK) --upgrade --extra service --extra embedded --extra dev --extra docs --output-file constraints.txt
	$(LOCK) --extra service --constraint constraints.txt --output-file api/deployment/requirements.txt
	rm -rf $(VENV)/constraints

audit: ## Compare the pinned versions with a database of known vulnerabilities
	rm -rf $(VENV)/audit && $(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet pip-audit
	$(VENV)/audit/bin/pip-audit --strict --require-hashes --disable-pip -r constraints.txt || \
	  { echo "not passed: a version above is vulnerable, or the database of vulnerabilities does not know it or cannot be reached"; exit 1; }
	rm -rf $(VENV)/audit

clean: ## Remove everything that make created, and the data of the embedded server
	rm -rf $(VENV) $(LOWEST) .activity build dist site *.egg-info
