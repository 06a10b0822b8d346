# SPDX-License-Identifier: Apache-2.0
# A thin front: every target is one or two cmake, ctest or tools/ commands, and does its own set-up first.
PRESET ?= release
PREFIX ?= /usr/local
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
FUZZ_SECONDS ?= 60
BENCH ?=
EXCLUDE ?=

python = build/venv/bin/python
# Asked by the shell, after the set-up: make itself expands a whole recipe before it runs the first line.
generator = $$(test -f build/$(1)/CMakeCache.txt || { command -v ninja >/dev/null && echo -G Ninja; })
configure = mkdir -p build && cmake --preset $(1) $(call generator,$(1)) $(2) --log-level=NOTICE >build/configure.log
compile = cmake --build build/$(1) -j $(JOBS)
check = ctest --preset $(1) -j $(JOBS) $(if $(EXCLUDE),-LE '$(EXCLUDE)') --no-tests=error --output-junit $(CURDIR)/build/$(1)/junit.xml

.PHONY: help setup build run test bench install format check-format asan tsan fuzz clean
.DEFAULT_GOAL := help

help: ## list the targets
	@echo "w4a16: 16-bit activations times 4-bit weights. Targets:"
	@sed -n 's/^\([a-z-]*\):.* ## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'
	@echo "Variables: PRESET=release|debug|clang (build, test), PREFIX=$(PREFIX), JOBS=$(JOBS), FUZZ_SECONDS=$(FUZZ_SECONDS), EXCLUDE (labels of tests to leave out), BENCH (options of bench/report.py)"

setup: ## install the missing Debian packages and the Python packages of the tests
	@tools/setup.sh packages
	@tools/setup.sh python

build: ## build the library and the command into build/release
	@tools/setup.sh packages
	@$(call configure,$(PRESET))
	@$(call compile,$(PRESET))

run: ## quantise, verify, multiply and time real weights on this machine
	@$(MAKE) --no-print-directory build PRESET=release
	@tools/setup.sh python
	@W4A16_BUILD=build/release W4A16_PYTHON=$(python) tools/run.sh

test: ## build and run all tests
	@$(MAKE) --no-print-directory build
	@tools/setup.sh python
	@$(call check,$(PRESET))

bench: ## on a GPU: beside cuBLAS and the limits, into bench/results/, plots in build/release/plots; else the CPU, into build/bench.csv
	@$(MAKE) --no-print-directory build PRESET=release
	@tools/setup.sh python
	@W4A16_BUILD=build/release W4A16_PYTHON=$(python) tools/bench.sh $(BENCH)

install: ## install under PREFIX (DESTDIR is honoured)
	@$(MAKE) --no-print-directory build PRESET=release
	cmake --install build/release --prefix $(PREFIX)

format: ## format every C file
	@tools/format.sh

check-format: ## say which C files are not formatted
	@tools/format.sh --check

asan: ## all tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(MAKE) --no-print-directory test PRESET=asan

tsan: ## the threading tests under ThreadSanitizer (clang)
	@tools/setup.sh packages ci
	@$(call configure,tsan)
	@$(call compile,tsan) --target tests_threads
	@$(call check,tsan)

fuzz: ## each parser under libFuzzer for FUZZ_SECONDS (clang)
	@tools/setup.sh packages ci
	@$(call configure,fuzz,-DW4A16_FUZZ_SECONDS=$(FUZZ_SECONDS))
	@$(call compile,fuzz) --target tests_fuzz
	@$(call check,fuzz)

clean: ## remove build/, the Python packages too
	rm -rf build
