"""A program that speaks Claude Code's protocol and takes real turns: each is a call of a model through the address and the token
that it was given, tried again when it breaks, as the real programs do. Two hundred of the real ones want more memory than a
machine for tests has.

Its prompt is the number of turns. A turn that is over is a line in `$PLACE/$HIVEWARD_TASK`.
"""

import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid

if "--version" in sys.argv:
    print("2.1.0 (Claude Code)")
    sys.exit(0)

session = str(uuid.uuid4())
log = os.path.join(os.environ["PLACE"], os.environ["HIVEWARD_TASK"])


def out(message):
    print(json.dumps(message), flush=True)


def call(turn):
    messages = [{"role": "user", "content": f"turn {turn}"}]
    body = json.dumps({"model": "claude-test", "max_tokens": 100, "messages": messages}).encode()
    headers = {"content-type": "application/json", "x-api-key": os.environ["ANTHROPIC_API_KEY"]}
    while True:
        try:
            url = os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages"
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as answer:
                return json.load(answer)["content"][0]["text"]
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise
        except (OSError, http.client.HTTPException, ValueError):
            pass
        time.sleep(0.1)


for line in sys.stdin:
    message = json.loads(line)
    if message["type"] != "user":
        continue
    out({"type": "system", "subtype": "init", "session_id": session, "model": "m", "claude_code_version": "2.1.0"})
    out({**message, "isReplay": True})
    turns = int(message["message"]["content"][0]["text"])
    for turn in range(1, turns + 1):
        text = call(turn)
        with open(log, "a") as file:
            file.write(f"{turn}\n")
        # What it did, as a tool's call and result: who only talks is taken to be stuck.
        use = {"type": "tool_use", "id": f"use-{turn}", "name": "Write", "input": {"file_path": log, "content": f"{turn}"}}
        out({"type": "assistant", "message": {"content": [{"type": "text", "text": f"{turn}: {text}"}, use]}})
        out({"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id": f"use-{turn}", "content": "written"}]}})
    out({"type": "result", "subtype": "success", "is_error": False, "session_id": session, "result": f"{turns} turns"})
