"""An OpenAI-compatible endpoint on this machine that misbehaves as it is told to."""

import json
import re
import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

SECRET = "sk-the-secret-of-this-test"
USAGE = {"prompt_tokens": 10, "completion_tokens": 5}


def number_of(request):
    """The n of the ``item-<n>`` that a request is about."""
    return int(re.search(r"item-(\d+)", request)[1])


def said_of(request):
    """A good answer to it."""
    return f'"Said of item-{number_of(request)} in words of another kind."'


class Endpoint(BaseHTTPRequestHandler):
    """Answers chat requests after the mishaps planned for their item: what ``server.item`` makes of
    the request; ``server.fine`` is the text of a good answer."""

    def do_POST(self):
        """Answer one request; a client that was killed while it sent one gets nothing."""
        with suppress(json.JSONDecodeError):
            self.answer()

    def answer(self):
        """Count the request, wait, and reply as planned."""
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        request = body["messages"][-1]["content"]
        source, item = request.split("Text:\n")[-1], server.item(request)
        with server.lock:
            server.asked[item] += 1
            server.flying += 1
            server.most = max(server.most, server.flying)
            mishaps = server.plan.get(item) or []
            mishap = mishaps.pop(0) if mishaps else "fine"
        time.sleep(server.delay)
        with server.lock:  # before the answer is sent: then the client is free to ask on
            server.flying -= 1
        with suppress(ConnectionError):  # a killed or impatient client
            self.reply(mishap, source, request)

    def reply(self, mishap, source, request):
        """Send what the plan says."""
        texts = {
            "fine": self.server.fine(request),
            "empty": "  ",
            "null": None,
            "refusal": "I’m sorry, but I can’t help with that request of yours.",
            "same": source.upper() + " ",
            "long": "word " * 100,
            "short": "Brief.",
        }
        self.server.sent[request] += mishap == "fine"
        if mishap == "stall":
            time.sleep(0.8)
        if isinstance(mishap, int):
            waits = {429: {"Retry-After": "0.05"}, 500: {"retry-after-ms": "20"}}
            # An unkind server repeats the key.
            said = {"error": {"message": f"refused {self.headers['Authorization']}"}}
            return self.send(mishap, json.dumps(said), waits.get(mishap, {}))
        message = {"role": "assistant", "content": texts.get(mishap)}
        whole = {"choices": [{"message": message}], "usage": USAGE}
        bodies = {"malformed": '{"choices": [', "page": "<html>", "list": "[1]"}
        bodies["no-choices"] = json.dumps({**whole, "choices": []})
        body = bodies.get(mishap, json.dumps(whole))
        if mishap == "cut":
            return self.send(200, body[: len(body) // 2], {"Content-Length": str(len(body))})
        return self.send(200, body, {"Content-Type": "text/html"} if mishap == "page" else {})

    def send(self, status, body, headers):
        """Send status, headers and body."""
        self.send_response(status)
        known = {"Content-Length": str(len(body)), "Content-Type": "application/json"}
        for name, value in {**known, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def server(monkeypatch):
    """A local endpoint and its counts."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TEST_KEY", SECRET)
    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as served:
        served.plan, served.asked, served.lock = {}, Counter(), threading.Lock()
        served.flying = served.most = 0
        served.sent = Counter()  # good answers, by request
        served.delay = 0.02
        served.item, served.fine = number_of, said_of
        served.url = f"http://127.0.0.1:{served.server_port}/v1"
        threading.Thread(target=served.serve_forever, args=(0.02,), daemon=True).start()
        yield served
        served.shutdown()
