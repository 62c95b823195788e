#!/usr/bin/env python3
"""Merges the chunks' results into one report: a summary as the result, report.md and report.json as artifacts."""
import collections
import json
import os
import sys

with open(os.environ["HIVEWARD_INPUTS"]) as file:
    inputs = json.load(file)
chunks = inputs[0]["result"]
if isinstance(chunks, dict) and set(chunks) == {"path"}:  # A large result is a file.
    with open(chunks["path"]) as file:
        chunks = json.load(file)
files = [entry for chunk in chunks for entry in chunk["result"]["files"]]
findings = [entry for chunk in chunks for entry in chunk["result"]["findings"]]
kinds = collections.Counter(finding["what"] for finding in findings)
endings = collections.Counter()
for entry in files:
    endings[os.path.splitext(entry["path"])[1] or "(none)"] += entry["lines"]
summary = {
    "files": len(files),
    "lines": sum(entry["lines"] for entry in files),
    "bytes": sum(entry["bytes"] for entry in files),
    "findings": dict(kinds.most_common()),
    "lines by ending": dict(endings.most_common(8)),
    "largest": [entry["path"] for entry in sorted(files, key=lambda entry: -entry["bytes"])[:5]],
}
with open("report.json", "w") as out:
    json.dump({"summary": summary, "files": files, "findings": findings}, out, indent=1)
with open("report.md", "w") as out:
    print("# Audit\n", file=out)
    for what, value in summary.items():
        print(f"- {what}: {value}", file=out)
    print("\n| file | what | detail |\n| --- | --- | --- |", file=out)
    for finding in sorted(findings, key=lambda finding: (finding["what"], finding["path"])):
        print(f"| {finding['path']} | {finding['what']} | {finding['detail']} |", file=out)
for name in ("report.md", "report.json"):
    print(json.dumps({"hiveward": "artifact", "name": name, "path": name}))
print(json.dumps(summary, indent=1), file=sys.stderr)
print(json.dumps({"hiveward": "result", "value": summary}))
