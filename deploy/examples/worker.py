#!/usr/bin/env python3
"""A Hiveward worker: a long-lived process that takes tasks as JSON lines (docs/worker_protocol.md).

Kinds it knows: "echo", "sum" (of {"numbers": [...]}), "count" (slow, with progress and checkpoints), "fail".
"""
import json
import sys
import threading
import time

write_lock = threading.Lock()
cancelled = set()


def say(**message):
    with write_lock:
        print(json.dumps(message), flush=True)


def count(task, upto, checkpoint):
    for i in range((checkpoint or {}).get("done", 0), upto):
        if task in cancelled:
            return say(type="failed", task=task, message="cancelled", retriable=False)
        say(type="progress", task=task, percent=100 * i / upto, message=f"counted to {i}")
        say(type="checkpoint", task=task, data={"done": i})
        time.sleep(0.01)
    say(type="result", task=task, value=upto)


def work(job):
    task, payload = job["task"], job.get("payload")
    try:
        if job["kind"] == "echo":
            say(type="result", task=task, value={"payload": payload, "inputs": job["inputs"]})
        elif job["kind"] == "sum":
            say(type="result", task=task, value=sum(payload["numbers"]))
        elif job["kind"] == "count":
            count(task, payload["upto"], job.get("checkpoint"))
        else:
            say(type="failed", task=task, message=f"unknown kind {job['kind']}", retriable=False)
    except Exception as error:  # whatever goes wrong is this task's failure, not the worker's
        say(type="failed", task=task, message=repr(error), retriable=True)


say(type="ready")
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "task":
        threading.Thread(target=work, args=(message,), daemon=True).start()
    elif message["type"] == "cancel":
        cancelled.add(message["task"])
    elif message["type"] == "stop":
        break
