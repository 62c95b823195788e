#!/usr/bin/env python3
"""Audits the files named on standard input (a JSON list) as they are in one commit, with git's own tools.

usage: audit.py REPOSITORY COMMIT < paths.json
"""
import json
import re
import subprocess
import sys

repository, commit = sys.argv[1:3]
paths = json.load(sys.stdin)
MARKS = re.compile(rb"\b(TODO|FIXME|XXX|HACK)\b")
SECRETS = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b|\bghp_[A-Za-z0-9]{36}\b")

# One `git cat-file` for the whole chunk: each answer is "<hash> <type> <size>\n<bytes>\n".
ask = "".join(f"{commit}:{path}\n" for path in paths if "\n" not in path).encode("utf-8", "surrogateescape")
cat = subprocess.run(["git", "-C", repository, "cat-file", "--batch"], input=ask, check=True, capture_output=True).stdout
at, files, findings = 0, [], []
for number, path in enumerate(path for path in paths if "\n" not in path):
    end = cat.index(b"\n", at)
    size = int(cat[at:end].split()[-1])
    body = cat[end + 1:end + 1 + size]
    at = end + 1 + size + 1
    binary = b"\0" in body[:8000]
    text = not binary
    try:
        body.decode("utf-8")
        utf8 = True
    except UnicodeDecodeError:
        utf8 = False
    lines = body.count(b"\n") + (1 if body and not body.endswith(b"\n") else 0) if text else 0
    files.append({"path": path, "bytes": size, "lines": lines})
    note = lambda what, detail: findings.append({"path": path, "what": what, "detail": detail})
    if SECRETS.search(body):
        note("secret", "looks like a private key or an access token")
    if size > 1 << 20:
        note("large", f"{size} bytes")
    if text and not utf8:
        note("encoding", "text that is not UTF-8")
    if text and body and not body.endswith(b"\n"):
        note("newline", "no newline at the end")
    if text and (marks := len(MARKS.findall(body))):
        note("marks", f"{marks} TODO or the like")
    if text and (longest := max((len(line) for line in body.split(b"\n")), default=0)) > 500:
        note("long line", f"{longest} bytes")
    if number % 50 == 49:
        print(json.dumps({"hiveward": "progress", "percent": 100 * number / len(paths), "message": path}), flush=True)
for path in (path for path in paths if "\n" in path):
    files.append({"path": path, "bytes": 0, "lines": 0})
    findings.append({"path": path, "what": "name", "detail": "a newline in its name"})

print(f"{len(files)} files, {len(findings)} findings", file=sys.stderr)
print(json.dumps({"hiveward": "result", "value": {"files": files, "findings": findings}}))
