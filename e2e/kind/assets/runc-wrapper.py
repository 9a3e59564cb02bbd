#!/usr/bin/env python3
"""A container runtime for dockerd where CAP_SYS_RESOURCE is outside the bounding set.

runc refuses to start a privileged container there, because it cannot give it every capability.
This takes the one capability out of the specification, then becomes runc.
"""
import json
import os
import sys

MISSING = "CAP_SYS_RESOURCE"


def option(args, *names):
    """The value of `--name VALUE` or `--name=VALUE`."""
    for position, word in enumerate(args):
        for name in names:
            if word == name and position + 1 < len(args):
                return args[position + 1]
            if word.startswith(name + "="):
                return word[len(name) + 1:]
    return None


def without_missing(path, process_of):
    with open(path, encoding="utf-8") as file:
        spec = json.load(file)
    capabilities = (process_of(spec) or {}).get("capabilities") or {}
    for kind, names in capabilities.items():
        if isinstance(names, list):
            capabilities[kind] = [name for name in names if name != MISSING]
    with open(path, "w", encoding="utf-8") as file:
        json.dump(spec, file)


def main():
    args = sys.argv[1:]
    if "create" in args or "run" in args:
        bundle = option(args, "--bundle", "-b") or "."
        without_missing(os.path.join(bundle, "config.json"), lambda spec: spec.get("process"))
    elif "exec" in args:
        process = option(args, "--process", "-p")
        if process:
            without_missing(process, lambda spec: spec)
    os.execvp("runc", ["runc"] + args)


main()
