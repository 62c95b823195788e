"""Passes if the review that is on standard input approves; says the findings if it does not."""

import json
import sys

review = json.load(sys.stdin)
if review.get("approve") is True:
    sys.exit(0)
print("; ".join(map(str, review.get("findings") or ["no finding was given"])), file=sys.stderr)
sys.exit(1)
