"""A program that speaks Claude Code's protocol, for what the real one cannot be made to do: it does what its prompt says.

One instruction per line of the prompt; see `do` below. Its conversation is a file under CLAUDE_CONFIG_DIR, so that it can
be resumed; with `--version` it says one that is new enough.
"""

import json
import os
import queue
import signal
import sys
import threading
import time
import uuid

if "--version" in sys.argv:
    print(os.environ.get("SPEAKS_VERSION", "2.1.0 (Claude Code)"))
    sys.exit(0)

home = os.environ["CLAUDE_CONFIG_DIR"]
os.makedirs(home, exist_ok=True)
session = str(uuid.uuid4())
resumed = "--resume" in sys.argv
if resumed:
    session = sys.argv[sys.argv.index("--resume") + 1]
conversation = os.path.join(home, session)
if resumed and not os.path.exists(conversation):
    print(f"No conversation found with session ID: {session}", flush=True)
    sys.exit(1)

if "-p" not in sys.argv:
    # As a person uses it, at a terminal: each line is done, and what came of it is shown.
    print(f"at the terminal of {session}", flush=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "exit":
            sys.exit(0)
        with open(conversation, "a") as file:
            file.write(rest + "\n")
        print(f"did {rest}", flush=True)
    sys.exit(0)

said = queue.Queue()


def listen():
    for line in sys.stdin:
        said.put(json.loads(line))
    said.put(None)


threading.Thread(target=listen, daemon=True).start()


def out(message):
    print(json.dumps(message), flush=True)


def text(words):
    out({"type": "assistant", "message": {"role": "assistant", "content": [{"type": "text", "text": words}]}})


def tool(name, given, result, failed=False):
    call = "toolu_" + uuid.uuid4().hex
    out({"type": "assistant", "message": {"content": [{"type": "tool_use", "id": call, "name": name, "input": given}]}})
    block = {"type": "tool_result", "tool_use_id": call, "content": result, "is_error": failed}
    out({"type": "user", "message": {"role": "user", "content": [block]}})


class Interrupted(Exception):
    pass


waiting = []


def hear(block=True):
    """The next message that is no prompt; prompts wait until the turn is over."""
    while True:
        message = said.get(timeout=None if block else 0.01)
        if message is None:
            sys.exit(0)
        if message["type"] == "user":
            waiting.append(message)
        elif message["type"] == "control_request" and message["request"]["subtype"] == "interrupt":
            out({"type": "control_response", "response": {"subtype": "success", "request_id": message["request_id"]}})
            raise Interrupted
        elif message["type"] == "control_request":
            out({"type": "control_response", "response": {"subtype": "success", "request_id": message["request_id"]}})
        else:
            return message


def may(name, given):
    request = str(uuid.uuid4())
    ask = {"subtype": "can_use_tool", "tool_name": name, "input": given, "tool_use_id": "toolu_" + request}
    out({"type": "control_request", "request_id": request, "request": ask})
    while True:
        response = hear()["response"]
        if response["request_id"] == request:
            return response["response"]


def do(line):
    word, _, rest = line.partition(" ")
    if word == "say":
        text(rest)
        return rest
    if word == "write":
        given = {"file_path": os.path.join(os.getcwd(), rest), "content": "x" * 10}
        answer = may("Write", given)
        if answer["behavior"] != "allow":
            tool("Write", given, answer["message"], failed=True)
            return "denied: " + answer["message"]
        with open(answer["updatedInput"]["file_path"], "a") as file:
            file.write(answer["updatedInput"]["content"])
        tool("Write", given, "written")
        return "wrote " + rest
    if word == "run":
        answer = may("Bash", {"command": rest})
        return answer["behavior"]
    if word == "wait":
        while True:
            hear()
    if word == "loop":
        for _ in range(100):
            tool("Bash", {"command": "make"}, "error 2")
            deadline = time.monotonic() + 0.02
            while time.monotonic() < deadline:
                try:
                    hear(block=False)
                except queue.Empty:
                    pass
    if word == "die":
        # Once per conversation.
        marker = conversation + ".died"
        if rest == "always" or not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
    if word == "exit":
        print("out of cheese", file=sys.stderr, flush=True)
        sys.exit(int(rest))
    if word == "raw":
        print(json.loads(rest), flush=True)
        time.sleep(1000)
    if word == "huge":
        block = "x" * (1 << 20)
        for _ in range(int(rest)):
            sys.stdout.write(block)
        sys.stdout.flush()
        time.sleep(1000)
    if word == "flood":
        while True:
            text("y" * 10000)
            do("tool")
    if word == "tool":
        tool("Read", {"file_path": uuid.uuid4().hex}, "z")
    if word == "fill":
        with open("filled", "wb") as file:
            file.write(b"\0" * (int(rest) << 20))
        return "filled"
    if word == "env":
        return json.dumps({name: os.environ.get(name) for name in rest.split()})
    return line


def turn(message):
    out({"type": "system", "subtype": "init", "session_id": session, "model": "m", "claude_code_version": "2.1.0"})
    open(conversation, "a").close()
    out({**message, "isReplay": True})
    result = {"type": "result", "subtype": "success", "is_error": False, "session_id": session}
    last = None
    try:
        asked = os.environ.get("SPEAKS_ONLY") or message["message"]["content"][0]["text"]
        for line in asked.splitlines():
            if line.startswith("Your process ended unexpectedly"):
                last = "resumed"
                text("resumed")
            elif line.startswith("A person took this conversation over"):
                with open(conversation) as file:
                    last = "since then: " + ", ".join(file.read().split())
                text(last)
            elif line.startswith("You do not seem to get on"):
                last = "nudged"
            else:
                last = do(line) or last
    except Interrupted:
        out({**result, "subtype": "error_during_execution", "is_error": True, "terminal_reason": "aborted_tools"})
        return
    out({**result, "result": last, "usage": {"input_tokens": 3, "output_tokens": 5}})


while True:
    if not waiting:
        message = said.get()
        if message is None:
            sys.exit(0)
        if message["type"] == "user":
            waiting.append(message)
        elif message["type"] == "control_request":
            out({"type": "control_response", "response": {"subtype": "success", "request_id": message["request_id"]}})
        continue
    turn(waiting.pop(0))
