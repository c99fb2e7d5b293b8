# `make help` lists the targets. The one prerequisite is a Swift 6.3 toolchain; `setup` installs the rest.

export GODWIT_PG18_BIN ?= $(shell cat .build/pg18-bin 2> /dev/null)
ifeq ($(GODWIT_PG18_BIN),)
unexport GODWIT_PG18_BIN
endif

.PHONY: help setup loadtest build deb test-deb test test-drivers regression fuzz promtool chaos demo demo-keep bench bench-mirror clean

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 20

setup:  ## install what is missing (Debian packages; Python packages and PostgreSQL 18 below .build)
	@scripts/setup

build: setup  ## release build: .build/release/godwit
	swift build -c release --product godwit

deb: setup  ## a Debian package: .build/godwit_<version>_<architecture>.deb
	@scripts/deb

test-deb: deb  ## installs the package, starts it, upgrades it under a client, removes it (root)
	@scripts/test-deb

test: setup promtool  ## every test, with real PostgreSQL 15 and 18
	@scripts/test

test-drivers: build  ## the drivers of other languages, as Debian has them: a table of language and case
	@scripts/test-drivers

regression: build  ## PostgreSQL's own regression SQL, through Godwit and directly (docs/REGRESSION.md)
	@scripts/regression

fuzz: setup  ## made-up bytes for all that parses what comes from outside (FUZZ_SECONDS=60 for each of FUZZ_TARGETS)
	@scripts/fuzz

promtool:  ## Prometheus and its checker into .build, for the tests of metrics and alert rules
	@scripts/promtool

chaos: setup  ## an hour of hostile transactions while servers, Godwit and the network die (CHAOS=transactions)
	swift build --build-tests
	GODWIT_CHAOS_TRANSACTIONS=$(or $(CHAOS),1000000) swift test --skip-build --filter ChaosTests

demo: build  ## a migration under load, from PostgreSQL 15 to 18, in three minutes
	@.build/venv/bin/python demo/demo.py

demo-keep: build  ## the demo's servers and Godwit, kept running to try psql on
	@.build/venv/bin/python demo/demo.py --keep

loadtest: setup  ## the load tester: .build/release/loadtest
	swift build -c release --product loadtest

bench: build  ## Godwit beside PgBouncer, HAProxy and PostgreSQL (loadtest/README.md); BENCH=all: every cell, or names
	@bash -c '. scripts/debian.sh && install_packages haproxy' bench
	@.build/venv/bin/python loadtest/matrix.py $(patsubst all,--all,$(BENCH))

bench-mirror: build  ## the mirror beside logical replication, COPY and plain reads
	@.build/venv/bin/python loadtest/mirror_beside_logical.py

clean:  ## remove everything that was built or installed below .build
	rm -rf .build
