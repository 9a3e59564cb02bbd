# Everything is done by `cargo xtask`; this file only forwards. `cargo xtask help` lists all verbs.

# One target directory for all checkouts, beside the other caches, unless another is chosen.
ifeq ($(XDG_CACHE_HOME),)
export CARGO_TARGET_DIR ?= $(HOME)/.cache/crdb/target
else
export CARGO_TARGET_DIR ?= $(XDG_CACHE_HOME)/crdb/target
endif

.PHONY: help up down demo check test

help:
	@cargo xtask help

up down demo check test:
	@cargo xtask $@
