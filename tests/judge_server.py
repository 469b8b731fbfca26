"""A server with the chat completions interface and scripted faults, run as a process of its own.

``python judge_server.py`` serves on a free port of the loopback interface, which it prints. What it answers follows
from the prompt alone, and which attempts go wrong from its plan; both are the same every time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import hashlib
import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-loopback-7f3a9c51e2d84b06"
MARKER = re.compile(r"Q-\d+")
FORM = re.compile(r"^Form of the answer: (.*)$", re.MULTILINE)
ERRORS = {"429": 429, "429-date": 429, "500": 500, "502": 502, "503": 503, "408": 408, "409": 409}
SLOW_SECONDS = 30.0


@dataclass
class Plan:
    """What a server does.

    Attributes:
        script: faults of the first requests, whatever they ask; "ok" is none.
        share: of the other requests, how many go wrong.
        faults: in which ways.
        seed: of which ones do.
        delay: seconds that every answer takes.
        refuses: parameters that are answered by 400.
        key: that must be sent; "": any or none.
        basic: leave out all that is not needed, and add fields as local servers do.
        wait: seconds of Retry-After.
    """

    script: tuple[str, ...] = ()
    share: float = 0.0
    faults: tuple[str, ...] = ()
    seed: int = 0
    delay: float = 0.0
    refuses: tuple[str, ...] = ()
    key: str = ""
    basic: bool = False
    wait: str = "0.02"


@dataclass
class Client:
    """A server that runs, as tests see it."""

    address: str

    def plan(self, **plan: Any) -> Client:
        """Begin anew, with another plan."""
        self._ask("/plan", json.dumps(dataclasses.asdict(Plan(**plan))).encode())
        return self

    def _ask(self, what: str, body: bytes | None = None) -> Any:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.address.removesuffix("/v1") + what, body, timeout=10) as response:
            return json.load(response)

    @property
    def successes(self) -> dict[str, int]:
        """Completions that were sent whole and are answers, by the marker of their question."""
        return dict(self._ask("/successes"))

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Bodies of all requests, in order."""
        return list(self._ask("/requests"))


@contextlib.contextmanager
def serving(**plan: Any) -> Iterator[Client]:
    """A server process for a block."""
    with subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Client(f"http://127.0.0.1:{int(process.stdout.readline())}/v1").plan(**plan)
        finally:
            process.kill()


class State:
    """What all threads of the server share."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.lock = plan, threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.successes: Counter[str] = Counter()
        self.attempts: Counter[str] = Counter()

    def fault(self, marker: str, body: dict[str, Any]) -> str:
        with self.lock:
            number = len(self.requests)
            self.requests.append(body)
            self.attempts[marker] += 1
            attempt = self.attempts[marker]
        if number < len(self.plan.script):
            return self.plan.script[number]
        drawn = hashlib.sha256(f"{self.plan.seed}:{marker}:{attempt}".encode()).digest()
        if drawn[0] / 256 < self.plan.share:
            return self.plan.faults[drawn[1] % len(self.plan.faults)]
        return "ok"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    newest = State(Plan())

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        state = Handler.newest
        with state.lock:
            found = state.requests if self.path == "/requests" else dict(state.successes)
            body = json.dumps(found).encode()
        self.send(200, body)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/plan":
            Handler.newest = State(Plan(**body))
            self.send(200, b"{}")
            return
        self.state = Handler.newest
        prompt = body["messages"][-1]["content"]
        marker = (MARKER.findall(prompt) or ["none"])[0]
        fault = self.state.fault(marker, body)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if self.reply(fault, body, prompt):
                with self.state.lock:
                    self.state.successes[marker] += 1

    def reply(self, fault: str, body: dict[str, Any], prompt: str) -> bool:
        """Send something; whether it was an answer."""
        plan = self.state.plan
        sent = self.headers.get("Authorization", "")
        if plan.key and sent != f"Bearer {plan.key}":
            self.error(401, f"Incorrect API key provided: {sent}", code="invalid_api_key")
            return False
        for name in plan.refuses:
            if name in body or body.get("response_format", {}).get("type") == name:
                self.error(400, f"Unsupported parameter: '{name}' is not supported with this model.")
                return False
        time.sleep(plan.delay)
        if fault != "ok":
            self.fail(fault, body, prompt)
            return False
        self.send(200, completion(body, answer(prompt), basic=plan.basic))
        return True

    def fail(self, fault: str, body: dict[str, Any], prompt: str) -> None:
        right = answer(prompt)
        contents = {
            "prose": f"Sure! Here is the answer:\n{right}",
            "two": f"{right}\n{right}",
            "schema": '{"answer": "yes"}',
            "empty": "",
            "key": json.dumps({"explanation": f"sent {self.headers.get('Authorization')}"}),
        }
        if fault in contents:
            self.send(200, completion(body, contents[fault]))
        elif fault == "null":
            self.send(200, completion(body, None))
        elif fault == "refusal":
            self.send(200, completion(body, None, refusal="I cannot help with that."))
        elif fault == "filter":
            self.send(200, completion(body, "", finish="content_filter"))
        elif fault == "length":
            self.send(200, completion(body, right[: len(right) // 2], finish="length"))
        elif fault in ERRORS:
            self.wait_error(fault)
        elif fault.isdigit():
            self.error(int(fault), "no")
        elif fault == "quota":
            self.error(429, "You exceeded your current quota.", code="insufficient_quota")
        elif fault == "policy":
            self.error(400, "The prompt was filtered.", code="content_filter")
        elif fault == "long":
            self.error(400, "max_tokens is too large: this model's maximum context length is 2048 tokens.")
        elif fault == "echo":
            self.echo()
        else:
            self.break_off(fault, completion(body, right))

    def wait_error(self, fault: str) -> None:
        plan = self.state.plan
        when = email.utils.formatdate(time.time() + 1, usegmt=True) if fault == "429-date" else plan.wait
        self.error(ERRORS[fault], "try again", headers={"Retry-After": when} if fault.startswith("429") else {})

    def echo(self) -> None:
        """All that was sent, wherever it fits."""
        sent = self.headers.get("Authorization", "")
        self.send_response(500, f"Failed for {sent}")
        body = json.dumps({"error": {"message": f"bad upstream call: {self.headers}", "code": sent}}).encode()
        for name, value in (("X-Echo", sent), ("Content-Type", "application/json"), ("Content-Length", len(body))):
            self.send_header(str(name), str(value))
        self.end_headers()
        self.wfile.write(body)

    def break_off(self, fault: str, body: bytes) -> None:
        self.close_connection = True
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        elif fault == "html":
            self.send(200, b"<html><body>Welcome</body></html>", kind="text/html")
        elif fault == "garbage":
            self.send(200, body[: len(body) // 2])
        elif fault == "error-200":
            self.send(200, json.dumps({"error": {"message": "upstream is down", "code": 502}}).encode())
        else:
            if fault in ("middle", "trickle"):
                self.head(200, len(body))
                for at in range(len(body) // 2):
                    self.wfile.write(body[at : at + 1])
                    if fault == "trickle":
                        time.sleep(0.1)
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    def error(self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None) -> None:
        body = json.dumps({"error": {"message": message, "type": "error", "param": None, "code": code}}).encode()
        self.send(status, body, headers=headers)

    def send(
        self, status: int, body: bytes, kind: str = "application/json", headers: dict[str, str] | None = None
    ) -> None:
        self.head(status, len(body), kind, headers)
        self.wfile.write(body)

    def head(
        self, status: int, size: int, kind: str = "application/json", headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(size), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()


def completion(
    body: dict[str, Any], content: str | None, *, refusal: str | None = None, finish: str = "stop", basic: bool = False
) -> bytes:
    """A response; the basic one as local servers give it, with fields of their own."""
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if basic:
        choice = {"index": 0, "message": message | {"reasoning_content": None, "tool_calls": []}, "stop_reason": None}
        return json.dumps({"choices": [choice], "timings": {"predicted_ms": 1.5}, "prompt_logprobs": None}).encode()
    choice = {"index": 0, "message": message | {"refusal": refusal}, "finish_reason": finish, "logprobs": None}
    prompt_tokens = sum(len(message["content"]) for message in body["messages"]) // 4
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": len(content or "") // 4}
    found = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"] + "-2024",
        "choices": [choice],
    }
    return json.dumps(found | {"usage": usage | {"total_tokens": sum(usage.values())}}).encode()


def answer(prompt: str) -> str:
    """An answer of the form that a prompt asks for: a context is active where it ends with blue."""
    form = FORM.findall(prompt)[-1]
    blocks = re.findall(r"<data-(\w+)>\n(.*?)\n</data-\1>", prompt, re.DOTALL) or [("", "")]
    lines = [line.partition(": ")[2] for line in blocks[-1][1].split("\n") if re.match(r"\d+: ", line)]
    nothing = {"statement": "nothing", "trigger": [], "tokens_up": [], "tokens_down": [], "confidence": 0.5}
    account = {"verdict": "unchanged", **nothing}
    if form.startswith('{"answers"'):
        name = "right" if '"right"' in form else "active"
        return json.dumps(
            {"answers": [{"index": at, name: "<<blue>>" in line} for at, line in enumerate(lines)]}, indent=1
        )
    if form.startswith('{"action"'):
        return json.dumps({"action": "conclude", "prompts": [], "account": account})
    fixed: dict[str, dict[str, Any]] = {
        "explanation": {"explanation": "active at blue"},
        "intruder": {"intruder": 0},
        "continuation": {"continuation": 1},
        "choice": {"choice": None},
        "reason": {"reason": "none of it", "grade": 0},
        "verdict": account,
    }
    return json.dumps(next(value for name, value in fixed.items() if form.startswith(f'{{"{name}"')))


class Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away


def main() -> None:
    with Server(("127.0.0.1", 0), Handler) as server:
        print(server.server_address[1], flush=True)  # noqa: T201
        server.serve_forever()


if __name__ == "__main__":
    main()
