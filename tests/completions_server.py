"""A server of text completions on loopback: plain transformers behind the usual interface."""

from __future__ import annotations

import base64
import io
import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

Answer = Callable[[str, dict[str, Any]], Any]
"""(path, body) → the answer's body, or (status, body, headers)."""


@contextmanager
def completions_server(answer: Answer) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Its address, and the requests that it gets: path, headers and body of each."""
    seen: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append({"path": self.path, "headers": dict(self.headers), "body": body})
            given = answer(self.path, body)
            status, value, headers = given if isinstance(given, tuple) else (200, given, {})
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            for name, content in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, content)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def serve_folder(folder: Path) -> Answer:
    """Greedy answers of a checkpoint, from token ids or from prompt embeddings."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).float().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lock = threading.Lock()

    def answer(path: str, body: dict[str, Any]) -> Any:
        assert path == "/v1/completions"
        assert body["temperature"] == 0
        if "prompt" in body:
            inputs = {"input_ids": torch.tensor([body["prompt"]])}
            length = len(body["prompt"])
        else:
            stream = io.BytesIO(base64.b64decode(body["prompt_embeds"]))
            inputs = {"inputs_embeds": torch.load(stream, weights_only=True)[None]}
            length = 0
        # Unasked, the library takes tokens that look like padding for padding.
        shape = next(iter(inputs.values())).shape[:2]
        with lock, torch.no_grad():
            made = model.generate(
                **inputs,
                attention_mask=torch.ones(shape, dtype=torch.long),
                max_new_tokens=body["max_tokens"],
                do_sample=False,
                eos_token_id=body["stop_token_ids"],
                pad_token_id=0,
            )[0, length:].tolist()
        stopped = made[-1] in body["stop_token_ids"]
        text = tokenizer.decode(made[:-1] if stopped else made, skip_special_tokens=True)
        return {
            "choices": [
                {
                    "text": text,
                    "finish_reason": "stop" if stopped else "length",
                    "logprobs": {"token_logprobs": [-0.5] * len(made)},
                }
            ],
            "usage": {"completion_tokens": len(made)},
        }

    return answer


@contextmanager
def raw_server(respond: Callable[[socket.socket, str], None]) -> Iterator[str]:
    """Its address; ``respond`` writes whatever it likes to a connection, given the prompt asked.

    Each connection gets one request. A client that goes away ends ``respond`` quietly.
    """

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            length = 0
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            body = json.loads(self.rfile.read(length) or b"{}")
            with suppress(OSError):
                respond(self.connection, body.get("prompt", ""))

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        thread.join()
        # Connections may hang on purpose: they are daemons, and nobody waits for them.
        server.socket.close()


def http_answer(text: str) -> bytes:
    """A whole, sound answer, for :func:`raw_server`."""
    data = json.dumps({"choices": [{"text": text, "finish_reason": "stop"}]}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    return head.encode() + data
