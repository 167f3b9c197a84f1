"""A client for text completions over HTTP, the interface that most LLM servers share.

vLLM, SGLang, llama.cpp, Ollama and hosted services answer ``POST /completions`` or
``/chat/completions``. Only the standard library is used: a few fields in, a few fields out.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from sptar.errors import ModelError

__all__ = ["Completion", "CompletionsClient"]

_TRIES = 6
_LONGEST_WAIT = 60.0
_BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Answers of a server that may do better a little later."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a server wrote.

    ``tokens`` and ``log_probability`` (natural log, summed over those tokens) are ``None`` when
    the server does not tell; ``stopped`` is whether it ended before its budget.
    """

    text: str
    tokens: int | None
    log_probability: float | None
    stopped: bool


class CompletionsClient:
    """Asks one model of one server.

    Args:
        base_url: up to and including the version, such as ``http://127.0.0.1:8000/v1``.
        model: name under which the server knows the model.
        interface: ``completions`` takes a prompt, ``chat`` a message.
        api_key_variable: environment variable with the key; without it none is sent.
        concurrency: requests under way at once.
        timeout: seconds that one answer may take.
        wait: how to sleep between tries, for tests.

    Raises:
        ModelError: the address is none of http or https.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        interface: Literal["completions", "chat"] = "completions",
        api_key_variable: str = "OPENAI_API_KEY",
        concurrency: int = 8,
        timeout: float = 600.0,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ModelError(
                f"`llm.base_url: {base_url}` is no address of a server.",
                hint="Give one such as http://127.0.0.1:8000/v1",
            )
        self._url = base_url.rstrip("/")
        self._model = model
        self._interface = interface
        self._key_variable = api_key_variable
        self._concurrency = concurrency
        self._timeout = timeout
        self._wait = wait

    def complete(self, bodies: Sequence[Mapping[str, Any]]) -> list[Completion]:
        """An answer for each body, in order; each holds ``prompt`` and settings of sampling.

        Raises:
            ModelError: the server cannot be reached, refuses, or answers something else.
        """
        with ThreadPoolExecutor(max_workers=self._concurrency) as pool:
            return list(pool.map(self._one, bodies))

    def _one(self, body: Mapping[str, Any]) -> Completion:
        asked = {"model": self._model, **body}
        path = "completions"
        if self._interface == "chat":
            path = "chat/completions"
            asked["messages"] = [{"role": "user", "content": asked.pop("prompt")}]
            asked["logprobs"] = bool(asked.get("logprobs"))
        answer = self._post(path, asked)
        try:
            choice = answer["choices"][0]
            text = choice["message"]["content"] if self._interface == "chat" else choice["text"]
            return Completion(
                text=str(text or ""),
                tokens=_count(answer.get("usage")),
                log_probability=_log_probability(choice.get("logprobs")),
                stopped=choice.get("finish_reason") == "stop",
            )
        except (KeyError, IndexError, TypeError) as error:
            raise ModelError(
                f"{self._url}/{path} answers in another form than expected ({error!r} is missing).",
                hint="Check `llm.base_url` and `llm.interface`.",
            ) from None

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(self._key_variable)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        data = json.dumps(body).encode()
        pause = 1.0
        for attempt in range(1, _TRIES + 1):
            request = urllib.request.Request(f"{self._url}/{path}", data=data, headers=headers)
            try:
                with urllib.request.urlopen(request, timeout=self._timeout) as response:
                    return json.loads(response.read())
            except urllib.error.HTTPError as error:
                if error.code not in _BUSY or attempt == _TRIES:
                    raise self._refused(error) from None
                wished = error.headers.get("Retry-After", "")
                delay = float(wished) if wished.isdigit() else pause
            except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
                if attempt == _TRIES:
                    reason = getattr(error, "reason", error)
                    raise ModelError(
                        f"The server at {self._url} cannot be reached ({reason}).",
                        hint="Start it, or correct `llm.base_url`. What is written so far is kept.",
                    ) from None
                delay = pause
            except ValueError:
                raise ModelError(f"{self._url}/{path} does not answer in JSON.") from None
            self._wait(min(delay, _LONGEST_WAIT))
            pause *= 2
        raise AssertionError("unreachable")

    def _refused(self, error: urllib.error.HTTPError) -> ModelError:
        said = error.read(2000).decode(errors="replace")
        try:
            value = json.loads(said)
            inner = value.get("error", value)
            said = str(inner.get("message", said) if isinstance(inner, dict) else inner)
        except (ValueError, AttributeError):
            pass
        said = " ".join(said.split())[:300]
        hint = None
        if error.code in (401, 403):
            hint = f"Put your key into the environment variable {self._key_variable}."
        elif error.code == 404:
            hint = f"Does the server know a model named '{self._model}'? See {self._url}/models"
        return ModelError(f"{self._url} refuses the request ({error.code}: {said}).", hint=hint)


def _count(usage: Any) -> int | None:
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return None if tokens is None else int(tokens)


def _log_probability(logprobs: Any) -> float | None:
    if not isinstance(logprobs, dict):
        return None
    if logprobs.get("token_logprobs"):
        values = logprobs["token_logprobs"]
    elif logprobs.get("content"):
        values = [item["logprob"] for item in logprobs["content"]]
    else:
        return None
    return float(sum(value for value in values if value is not None))
