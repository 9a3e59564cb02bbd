# Everything is done by `cargo xtask`; this file only forwards. `cargo xtask help` lists all verbs.

.PHONY: help up down demo check test

help:
	@cargo xtask help

up down demo check test:
	@cargo xtask $@
