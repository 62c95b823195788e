"""A program that greets like Claude Code and then breaks its protocol in the way that its prompt names."""

import json
import sys
import time
import uuid

if "--version" in sys.argv:
    print("2.1.0 (Claude Code)")
    sys.exit(0)

session = str(uuid.uuid4())


def out(message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def text(words):
    out({"type": "assistant", "message": {"content": [{"type": "text", "text": words}]}})


def tool(number, words):
    use = {"type": "tool_use", "id": f"use-{number}", "name": "Read", "input": {"file_path": str(number)}}
    out({"type": "assistant", "message": {"content": [{"type": "text", "text": words}, use]}})
    out({"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id": f"use-{number}", "content": words}]}})


for line in sys.stdin:
    message = json.loads(line)
    if message["type"] != "user":
        continue
    how = message["message"]["content"][0]["text"]
    if how.startswith("Your process ended unexpectedly"):
        how = "half an event"
    greeting = {"type": "system", "subtype": "init", "session_id": session, "model": "m", "claude_code_version": "2.1.0"}
    done = {"type": "result", "subtype": "success", "is_error": False, "session_id": session, "result": "done"}
    out(greeting)
    if how != "wrong ids":
        out({**message, "isReplay": True})
    if how == "garbage":
        sys.stdout.buffer.write(b'{"type": \xff\xfe\x00 nonsense}\n' * 1000)
        sys.stdout.flush()
    if how == "half an event":
        sys.stdout.write('{"type":"assistant","message":{"content":[{"type":"te')
        sys.stdout.flush()
        sys.exit(0)
    if how == "a line of 1 GiB":
        block = "x" * (1 << 20)
        sys.stdout.write('{"type":"assistant","message":{"content":"')
        for _ in range(1 << 10):
            sys.stdout.write(block)
        sys.stdout.write('"}}\n')
        sys.stdout.flush()
    if how == "wrong ids":
        # It takes up a prompt that nobody gave, ends a call that nobody made, answers a request that nobody asked.
        out({**message, "isReplay": True, "uuid": str(uuid.uuid4())})
        out({"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id": "nobody", "content": "x"}]}})
        out({"type": "control_response", "response": {"subtype": "success", "request_id": "nobody"}})
        out({"type": "control_cancel_request", "request_id": "nobody"})
        out(done)
        continue
    if how == "a flood":
        for number in range(1 << 30):
            tool(number, "y" * 10000)
    if how == "a flood of empty lines":
        while True:
            sys.stdout.write("\n" * 65536)
    time.sleep(1000)
