# make demo    set everything up, and run the main job on this machine
# make test    set everything up, and run all checks and tests; as root on Debian on real schedulers too
# make unit    the quick tests alone
# make test-user  what may be otherwise for an ordinary user, as one (part of make test where that is root)
# make lab     start the real schedulers and leave them running (make lab-down stops them)
# make docs    build the documentation into docs/_build
# make fuzz    an hour of random words; SECONDS_TO_FUZZ=60 for a minute
# make audit   known flaws of the packages that are used
# make bench   the benchmarks; the ones that need Slurm or sshd start the lab
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test test-user lint unit chaos lab lab-install second-install lab-down docs bench fuzz audit clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); apt-get install -y -q python3-venv && $(PYTHON) -m venv $(VENV); }

$(VENV)/core: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	touch $@

$(VENV)/all: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[test,notebook,docs]'
	touch $(VENV)/core $@

demo: $(VENV)/core
	$(BIN)/python docs/demo.py

lint: $(VENV)/all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck -x --severity=style clusterjob/*/*.sh tests/lab/*.sh
	$(BIN)/python tests/style.py clusterjob

unit: $(VENV)/all
	$(BIN)/python -m pytest -q -n 2 tests/unit tests/test_architecture.py

# On Debian as root the real schedulers are installed; elsewhere their tests say why they are skipped.
lab-install:
	@if [ "$$(id -u)" = 0 ] && [ -f /etc/debian_version ]; then tests/lab/lab.sh install >/dev/null; \
	else echo "real schedulers: not installed here (that needs Debian and root); their tests are skipped"; fi

# The second machine is another distribution in a folder, with HTCondor, a newer Slurm and a newer Python.
second-install: $(VENV)/all lab-install
	@if [ "$$(id -u)" = 0 ] && [ -f /etc/debian_version ]; then tests/lab/second.sh install $(BIN)/python; fi

test: $(VENV)/all lab-install
	@$(MAKE) --no-print-directory -j 2 --output-sync=target lint second-install
	$(BIN)/python -m pytest -n 6 --dist loadgroup
	@if [ "$$(id -u)" = 0 ]; then $(MAKE) --no-print-directory test-user; fi

# What may be otherwise for an ordinary user: files, folders, processes, stores. Root runs it in a name
# space of its own, without its rights; what needs the real schedulers is skipped.
test-user: $(VENV)/all
	CLUSTERJOB_REQUIRE_LAB= unshare --user --map-user=1000 --map-group=1000 \
		$(BIN)/python -m pytest -n 6 --dist loadgroup -p no:cacheprovider \
		tests/security tests/stores tests/contract/test_contract.py tests/contract/test_files.py \
		tests/embedded/test_care.py tests/embedded/test_session.py tests/embedded/test_spool.py \
		--ignore tests/security/test_parsers.py --ignore tests/stores/test_damage.py \
		--deselect tests/security/test_cli.py::test_words_of_any_kind

# the storms of tests/chaos at full length: less than half an hour
chaos: $(VENV)/all lab-install
	CLUSTERJOB_CHAOS=1 $(BIN)/python -m pytest -n 4 --dist loadgroup tests/chaos tests/unit/engine/test_machine.py

lab: lab-install
	tests/lab/lab.sh up

lab-down:
	tests/lab/lab.sh down

docs: $(VENV)/all
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build

# random words for the command line and for all that reads what others wrote
fuzz: $(VENV)/all
	CLUSTERJOB_FUZZ_SECONDS=$${SECONDS_TO_FUZZ:-3600} $(BIN)/python -m pytest -n 2 \
		tests/security/test_cli.py::test_words_of_any_kind tests/security/test_parsers.py

# known flaws of what this package builds upon (asks the package index's database)
audit: $(VENV)/all
	$(BIN)/pip install -q pip-audit
	$(BIN)/pip-audit

bench: $(VENV)/all
	$(BIN)/python benchmarks/rendering.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/records.py
	$(BIN)/python benchmarks/stores.py
	$(BIN)/python benchmarks/lists.py
	$(BIN)/python benchmarks/imports.py
	$(BIN)/python benchmarks/embedded.py
	$(BIN)/python benchmarks/campaigns.py
	@if [ "$$(id -u)" = 0 ]; then $(MAKE) lab $(VENV)/peers/bin/pysqa && for name in slurm bundles arrays protocol ssh functions; do nsenter --net=/run/netns/clusterjob-lab $(BIN)/python benchmarks/$$name.py; done; else echo "benchmarks/slurm.py, bundles.py, arrays.py, protocol.py, ssh.py and functions.py need the lab, which needs root"; fi

# other projects that the benchmarks measure beside this one, apart from it
$(VENV)/peers/bin/pysqa: | $(BIN)/python
	$(PYTHON) -m venv $(VENV)/peers
	$(VENV)/peers/bin/python -m pip install -q --disable-pip-version-check 'pysqa[remote]' submitit dask-jobqueue
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info docs/_build .mypy_cache .pytest_cache .ruff_cache
