# Everything that a person or CI does here, on a fresh Debian 12 or 13, or Ubuntu 24.04 or later,
# with git, make and Python 3.11+. What a step needs is installed by the step; a second run is
# quick, because what is done is remembered in .make/.

PYTHON ?= python3
JOBS ?= $(shell nproc)
VENV := .venv
BIN := $(VENV)/bin

# What the lab and the builder call, and what compiles the one package that has no wheel.
# None of them brings a daemon that starts: those of the VM run in the VM alone, and PostgreSQL is
# told not to make the cluster that it would start.
PACKAGES := apache2-bin busybox conntrack curl debian-archive-keyring dnsmasq-base gcc ipset \
	iproute2 iptables iputils-ping libc6-dev mmdebstrap nftables nmap openssh-client openssl procps \
	python3-dev systemd-container tcpdump util-linux
# What builds an image, unpacks one, and boots it.
PACKAGES += dosfstools e2fsprogs fdisk genisoimage gnupg mount mtools ovmf qemu-system-x86 \
	qemu-utils sudo zstd
# What the console proxy has as a hypervisor's screen, in its tests, the lab and the demo.
PACKAGES += tigervnc-standalone-server xclip xterm
# What the manager's tests have as a second database.
PACKAGES += postgresql
# Without what it asks for (numpy, redis, requests, jwcrypto) and nothing of ours uses.
WEBSOCKIFY := 'websockify>=0.13,<0.14'
# Debian and Ubuntu take the tools for virtual environments out of Python's package.
PACKAGES += $(shell $(PYTHON) -c "import ensurepip, venv" 2>/dev/null || echo python3-venv)

.PHONY: help
help: ## Say what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name words; \
	do printf '  make %-12s %s\n' "$$name" "$$words"; done

.PHONY: demo
demo: .make/packages .make/venv ## Boot a small cloud, push a document, show everything working
	@$(BIN)/sysvm demo

.PHONY: test
test: .make/packages .make/venv .make/extras .make/novnc ## Run all tests, in the lab and on a booted image (as root)
	@$(BIN)/sysvm image rootfs
	$(BIN)/pytest --numprocesses=$(JOBS) --dist=loadfile -m "not image" \
		--require=lab$$(command -v chromium >/dev/null && echo ,browser)
	@$(BIN)/sysvm image build
	$(BIN)/pytest --require=image -m image tests/image

.PHONY: test-image
test-image: .make/packages .make/venv .make/extras ## Build an image and prove it in every way, for an hour
	@$(BIN)/sysvm image build
	$(BIN)/pytest --require=image -m "image or proof" tests/image

.PHONY: test-fast
test-fast: .make/venv ## Run the tests that need neither root nor the lab, in a few minutes
	$(BIN)/pytest -q -m "not lab and not image and not browser" --numprocesses=$(JOBS)

.PHONY: lint
lint: .make/venv ## Check types, style and the import contract
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: test-browser
test-browser: .make/venv .make/extras .make/novnc ## Try the console's page in Chromium, and through the lab (as root)
	$(BIN)/pytest --require=browser -m browser

.PHONY: bench
bench: .make/packages .make/venv ## Measure, and write docs/performance.md
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python -m tests.bench

.PHONY: fuzz
fuzz: .make/packages .make/venv ## Feed it nonsense for a long time
	$(BIN)/pytest -m "fuzz or hypothesis" --hypothesis-profile=fuzz --numprocesses=$(JOBS)

.PHONY: soak
soak: .make/packages .make/venv ## Push and break things in the lab for a long time
	$(BIN)/pytest -m soak --require=lab

.PHONY: docs
docs: .make/venv ## Write the generated parts of docs/ anew
	$(BIN)/python -m appliance.reference

.PHONY: clean
clean: ## Remove what was made here (not labs that are up, nor the cached root file system)
	rm -rf $(VENV) .make build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Packages are looked up first: apt is asked, and its lists are fetched, only if one is missing.
.make/packages: Makefile
	@mkdir -p .make
	@missing=; for package in $(PACKAGES); do \
		dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' \
			|| missing="$$missing $$package"; \
	done; \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" -ne 0 ]; then \
			echo "missing packages: run 'apt-get install$$missing' as root"; exit 1; \
		fi; \
		export DEBIAN_FRONTEND=noninteractive; \
		test -e /etc/postgresql-common/createcluster.conf \
			|| { mkdir -p /etc/postgresql-common; echo 'create_main_cluster = false' \
				> /etc/postgresql-common/createcluster.conf; }; \
		apt-get update -q && apt-get install -q -y --no-install-recommends $$missing; \
	fi
	@touch $@

.make/venv: pyproject.toml | .make/compiler
	@mkdir -p .make
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[host,vm,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(WEBSOCKIFY)
	@touch $@

# What not every distribution has: Ubuntu has Chromium as a snap alone, and Vagrant's licence has put
# it out of newer ones. Tests that want one of them are skipped there, visibly.
.make/extras: .make/packages
	@missing=; for package in chromium vagrant ruby; do command -v $$package >/dev/null \
		|| missing="$$missing $$package"; done; \
	if [ -n "$$missing" ]; then \
		apt-get update -q; \
		for package in $$missing; do \
			if apt-cache policy $$package | grep -q 'Candidate: [0-9]'; then \
				DEBIAN_FRONTEND=noninteractive \
					apt-get install -q -y --no-install-recommends $$package; \
			fi; \
		done; \
	fi
	@touch $@

# noVNC as the template has it.
.make/novnc: image-recipes/elements/sysvm-console/package-list-bare | .make/packages .make/venv
	@base=$$($(BIN)/sysvm image rootfs | grep /base/) && rm -rf $@ && mkdir -p $@/usr/share \
		&& cp -r $$base/usr/share/novnc $@/usr/share/

# The fast tests run without root; only a machine without a compiler has to be given one first.
.make/compiler:
	@mkdir -p .make
	@if $(PYTHON) -c "import ensurepip, venv" 2>/dev/null && command -v gcc >/dev/null; then \
		touch $@; \
	else \
		$(MAKE) .make/packages && touch $@; \
	fi
