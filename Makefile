# Every target does its own set-up: Python >= 3.11 and make are all it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo bench packages serve test check format dashboard constraints clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(STAMP) ## Make .venv with the pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11: name a newer one, as in 'make PYTHON=python3.12'"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' || \
	  { echo "$(PYTHON) comes without venv: install it first (on Debian the package python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[service,embedded,dev]'
	@touch $@

demo: $(STAMP) ## Replay the sample fleet through the service; EXIT=1 leaves when done
	$(BIN)/python -m benchmarks demo $(if $(EXIT),--exit)

bench: $(STAMP) ## Run every benchmark in under ten minutes; COMPARE=results.json prints an earlier run beside it
	$(BIN)/python -m benchmarks all $(if $(COMPARE),--compare $(COMPARE))

packages: ## Install the system packages that some tests and benchmarks like to have (Debian, as root)
	@# As command:package if these differ. RUNLEVEL=1 keeps packages from starting their servers.
	@for name in curl wrk pgbouncer haproxy nginx chromium zsh fish shellcheck systemd-analyze:systemd; do \
	  PATH="$$PATH:/usr/sbin" command -v $${name%:*} >/dev/null || { apt-get update -qq && \
	    RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $${name#*:}; } || \
	  echo "not installed: $$name; tests that need it are skipped, and benchmarks do without it"; \
	done
	@# The binaries alone: the package as a whole would start a server.
	@{ command -v promtool && command -v prometheus; } >/dev/null || { \
	  apt-get update -qq && unpacked=$$(mktemp -d) && cd $$unpacked && \
	  apt-get download -qq -o APT::Sandbox::User=root prometheus && dpkg -x prometheus_*.deb . && \
	  install usr/bin/promtool usr/bin/prometheus /usr/local/bin/ && rm -r $$unpacked; } || \
	  echo "not installed: prometheus and promtool; tests that need them are skipped"

serve: $(STAMP) ## Run the service on 127.0.0.1:8080
	$(BIN)/python -m api serve

test: $(STAMP) ## Run the whole test suite against a Postgres of its own
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

check: $(STAMP) ## Format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

dashboard: $(STAMP) ## Write api/monitoring/dashboard.json anew, after a change of what makes it
	$(BIN)/python -m api.monitoring.dashboard

constraints: ## Pin the newest versions that pyproject.toml admits
	rm -rf $(VENV)/constraints && $(PYTHON) -m venv $(VENV)/constraints
	$(VENV)/constraints/bin/python -m pip install --quiet '.[service,embedded,dev]'
	$(VENV)/constraints/bin/python -m pip freeze --all --exclude pip --exclude activity-tracker > constraints.txt
	rm -rf $(VENV)/constraints build

clean: ## Remove everything that was made, the embedded server's data included
	rm -rf $(VENV) .activity build dist *.egg-info
