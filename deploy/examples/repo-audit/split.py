#!/usr/bin/env python3
"""Splits a git repository's files into chunks of about equal size and prints them as a plan: one subtask per chunk.

usage: split.py REPOSITORY CHUNKS
"""
import json
import os
import subprocess
import sys

here = os.path.dirname(os.path.abspath(__file__))
repository, chunks = os.path.abspath(sys.argv[1]), int(sys.argv[2])
commit = subprocess.run(["git", "-C", repository, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
listing = subprocess.run(["git", "-C", repository, "ls-tree", "-r", "-l", "-z", commit], check=True, capture_output=True).stdout

files = []
for entry in listing.split(b"\0"):
    if not entry:
        continue
    head, path = entry.split(b"\t", 1)
    _mode, kind, _hash, size = head.split()
    if kind == b"blob":  # A submodule is a commit of another repository.
        files.append((int(size), os.fsdecode(path)))

# Largest first, each to the lightest chunk.
loads = [[0, []] for _ in range(min(chunks, max(1, len(files))))]
for size, path in sorted(files, reverse=True):
    lightest = min(loads, key=lambda load: load[0])
    lightest[0] += size
    lightest[1].append(path)

print(f"{len(files)} files at {commit[:12]} in {len(loads)} chunks", file=sys.stderr)
tasks = []
for number, (_size, paths) in enumerate(loads, 1):
    tasks.append({
        "name": f"chunk-{number:02}",
        "title": f"audit chunk {number} of {len(loads)} ({len(paths)} files)",
        "command": {"argv": ["python3", os.path.join(here, "audit.py"), repository, commit], "stdin": json.dumps(sorted(paths))},
    })
print(json.dumps({"hiveward": "result", "value": {"tasks": tasks}}))
