#!/usr/bin/env python3
"""The gate: passes only if the report covers every file of the commit exactly once.

usage: coverage.py REPOSITORY   (in the directory that holds report.json)
"""
import collections
import json
import os
import subprocess
import sys

repository = sys.argv[1]
listing = subprocess.run(["git", "-C", repository, "ls-tree", "-r", "-z", "HEAD"], check=True, capture_output=True).stdout
wanted = {os.fsdecode(entry.split(b"\t", 1)[1]) for entry in listing.split(b"\0") if entry and entry.split()[1] == b"blob"}
with open("report.json") as file:
    counted = collections.Counter(entry["path"] for entry in json.load(file)["files"])
missing = sorted(wanted - set(counted))
foreign = sorted(set(counted) - wanted)
double = sorted(path for path, count in counted.items() if count > 1)
for what, paths in (("missing", missing), ("not in the commit", foreign), ("audited more than once", double)):
    if paths:
        print(f"{len(paths)} files {what}, first {paths[0]}", file=sys.stderr)
if missing or foreign or double:
    sys.exit(1)
print(f"all {len(wanted)} files are covered exactly once", file=sys.stderr)
