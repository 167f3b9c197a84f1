"""A client for text completions over HTTP, the interface that most LLM servers share.

vLLM, SGLang, llama.cpp, Ollama and hosted services answer ``POST /completions`` or
``/chat/completions``. What may go wrong is told apart by kind: a busy or broken server is asked
again, a document that a sound server refuses gets a completion without text and with the reason,
and everything that no other document would change stops the run. Answers cost money: each is kept
as it comes (:mod:`sptar.llm.hosted.answer_log`).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import httpx2

from sptar.address import address_problem, address_secrets, masked_address
from sptar.errors import ModelError
from sptar.llm.hosted.answer_log import AnswerLog
from sptar.llm.hosted.answers import Completion, completion_of, refused

__all__ = ["CompletionsClient"]

_TRIES = 6
_TRIES_OF_PAID = 2
"""An answer that came too slowly or garbled may have been paid for, and may come so again."""
_LONGEST_WAIT = 60.0
_CONNECT = 30.0
_MOST_BYTES = 8 << 20
"""An answer of some hundred tokens with their log-probabilities takes some ten thousand bytes."""
_MOST_BYTES_OF_REFUSAL = 1 << 16
_DOUBTS = 8
"""So many unusable answers in a row are believed; then the server is tried again."""
_DOCUMENT_REFUSED = frozenset({400, 413, 414, 422, 431, 451})
_BUSY = frozenset({408, 409, 425, 429})
_TRIAL = "Document: Dogs travel free on the ferry.\nRelevant Query:"


@dataclass(frozen=True, slots=True)
class _Reply:
    """What came over the wire; ``content`` is ``None`` when there was too much of it."""

    status: int
    headers: Mapping[str, str]
    content: bytes | None


class _NoAnswerError(Exception):
    """A try without an answer; ``tries`` says how often this kind is tried."""

    def __init__(self, reason: str, tries: int = _TRIES, after: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.tries = tries
        self.after = after


class _UnreachableError(_NoAnswerError):
    """Nobody answers at all."""


class _BusyError(_NoAnswerError):
    """The server wants fewer requests."""


class CompletionsClient:
    """Asks one model of one server. Redirects are not followed: the key stays with its host.

    Args:
        base_url: up to and including the version, such as ``http://127.0.0.1:8000/v1``. A user and
            password in it are sent, and masked in every message.
        model: name under which the server knows the model.
        interface: ``completions`` takes a prompt, ``chat`` a message.
        api_key_variable: environment variable with the key; without it none is sent.
        concurrency: requests under way at once.
        timeout: seconds that one answer may take, from the request to its last byte.
        log: where answers are kept as they come, and looked for first.
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
        log: AnswerLog | None = None,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        problem = address_problem(base_url)
        try:
            self._address = httpx2.URL("http://x" if problem else base_url)
        except httpx2.InvalidURL:
            problem = "its parts cannot be read"
        if problem is not None:
            raise ModelError(
                f"`llm.base_url` is no address of a server: {problem}.",
                hint="Give one such as http://127.0.0.1:8000/v1",
            )
        self._url = masked_address(base_url)
        self._secrets = address_secrets(base_url)
        self._model = model
        self._interface = interface
        self._key_variable = api_key_variable
        self._concurrency = concurrency
        self._timeout = timeout
        self._log = log or AnswerLog()
        self._wait = wait
        self._good = 0
        self._doubts = 0

    def complete(
        self,
        bodies: Sequence[Mapping[str, Any]],
        on_answer: Callable[[int], None] = lambda number: None,
    ) -> list[Completion]:
        """An answer for each body, in order; each holds ``prompt`` and settings of sampling.

        Where a sound server gives none, the completion says why in its ``refusal``.

        Args:
            bodies: what is asked.
            on_answer: told the number of each body as soon as it has its answer.

        Raises:
            ModelError: the server cannot be reached, wants another key or model, or gives no
                usable answer to anything.
        """
        return _run(self._all(bodies, on_answer)) if bodies else []

    async def _all(
        self, bodies: Sequence[Mapping[str, Any]], on_answer: Callable[[int], None]
    ) -> list[Completion]:
        answers: dict[int, Completion] = {}
        waiting = iter(enumerate(bodies))
        doubt = asyncio.Lock()

        async def work(client: httpx2.AsyncClient) -> None:
            for number, body in waiting:
                found = self._log.find(body)
                if found is None:
                    found = await self._one(client, body, doubt)
                    self._log.add(body, found)
                answers[number] = found
                on_answer(number)

        async with self._client() as client:
            count = min(self._concurrency, len(bodies))
            workers = [asyncio.ensure_future(work(client)) for _ in range(count)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        return [answers[number] for number in range(len(bodies))]

    def _client(self) -> httpx2.AsyncClient:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        key = os.environ.get(self._key_variable, "").strip()
        if key:
            if not (key.isascii() and key.isprintable()):
                raise ModelError(
                    f"The key in the environment variable {self._key_variable} holds signs that "
                    "no key has.",
                    hint="Set it again, without quotes or line ends.",
                )
            self._secrets = [*dict.fromkeys([*self._secrets, key])]
            headers["Authorization"] = f"Bearer {key}"
        return httpx2.AsyncClient(
            headers=headers,
            follow_redirects=False,
            timeout=httpx2.Timeout(self._timeout, connect=min(_CONNECT, self._timeout), pool=None),
            limits=httpx2.Limits(max_connections=self._concurrency),
        )

    async def _one(
        self, client: httpx2.AsyncClient, body: Mapping[str, Any], doubt: asyncio.Lock
    ) -> Completion:
        """The answer to one body, and whether the server is sound if there is none."""
        answer, good = await self._ask(client, body)
        if answer.refusal is None:
            return answer
        async with doubt:
            self._doubts += 1
            if self._good <= good or self._doubts > _DOUBTS:
                trial = {name: value for name, value in body.items() if name != "prompt_embeds"}
                tried, _ = await self._ask(client, {**trial, "prompt": _TRIAL})
                if tried.refusal is not None:
                    raise ModelError(
                        f"{self._url} gives no usable answer to anything ({tried.refusal}).",
                        hint="Check `llm.base_url`, `llm.interface` and the server. What is "
                        "written so far is kept.",
                    )
        return answer

    async def _ask(
        self, client: httpx2.AsyncClient, body: Mapping[str, Any]
    ) -> tuple[Completion, int]:
        """The answer to one body after as many tries as it takes.

        With a refusal comes how many good answers do not yet show that the server is sound. Of a
        refusal that is 0: any answer to another document shows it. Of a fault that may pass, such
        as an overloaded server, those that came before the last try say nothing.
        """
        asked = {"model": self._model, **body}
        path = "completions"
        if self._interface == "chat":
            path = "chat/completions"
            asked["messages"] = [{"role": "user", "content": asked.pop("prompt")}]
            asked["logprobs"] = bool(asked.get("logprobs"))
        data = json.dumps(asked).encode()
        where = self._address.copy_with(path=f"{self._address.path.rstrip('/')}/{path}")
        pause, tries = 1.0, 0
        while True:
            tries += 1
            good = self._good
            try:
                answer = self._read(await self._post(client, where, data))
            except _NoAnswerError as failed:
                if tries >= failed.tries:
                    return self._given_up(failed), good
                await self._wait(_delay(failed.after, pause))
                pause *= 2
            else:
                if answer.refusal is None:
                    self._good += 1
                    self._doubts = 0
                    return answer, 0
                return replace(answer, refusal=self._sentence(answer.refusal)), 0

    def _given_up(self, failed: _NoAnswerError) -> Completion:
        """What is left after the last try: no text for this document, or the end of the run."""
        hint = "What is written so far is kept: type the same command again to go on."
        if isinstance(failed, _UnreachableError):
            raise ModelError(
                f"The server at {self._url} cannot be reached ({failed.reason}).",
                hint=f"Start it, or correct `llm.base_url`. {hint}",
            )
        if isinstance(failed, _BusyError):
            raise ModelError(
                f"The server at {self._url} stays busy ({failed.reason}).",
                hint=f"Lower `llm.concurrency`, or wait. {hint}",
            )
        return refused(failed.reason)

    async def _post(self, client: httpx2.AsyncClient, where: httpx2.URL, data: bytes) -> _Reply:
        try:
            return await asyncio.wait_for(self._exchange(client, where, data), self._timeout)
        except (asyncio.TimeoutError, TimeoutError, httpx2.ReadTimeout, httpx2.WriteTimeout):
            reason = f"no whole answer within {self._timeout:g} seconds"
            raise _NoAnswerError(reason, _TRIES_OF_PAID) from None
        except (
            httpx2.ConnectError,
            httpx2.ConnectTimeout,
            httpx2.ProxyError,
            httpx2.UnsupportedProtocol,
        ) as error:
            raise _UnreachableError(self._sentence(str(error) or type(error).__name__)) from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            said = self._sentence(str(error) or type(error).__name__)
            raise _NoAnswerError(f"the answer broke off: {said}") from None

    async def _exchange(self, client: httpx2.AsyncClient, where: httpx2.URL, data: bytes) -> _Reply:
        content = bytearray()
        async with client.stream("POST", where, content=data) as response:
            most = _MOST_BYTES if response.is_success else _MOST_BYTES_OF_REFUSAL
            async for part in response.aiter_raw():
                content += part
                if len(content) > most:
                    whole = None if response.is_success else bytes(content[:most])
                    return _Reply(response.status_code, response.headers, whole)
            return _Reply(response.status_code, response.headers, bytes(content))

    def _read(self, reply: _Reply) -> Completion:
        """What a reply says.

        Raises:
            _NoAnswerError: another try may bring an answer.
            ModelError: no other document would be answered either.
        """
        if not 200 <= reply.status < 300:
            return self._status(reply.status, self._said(reply.content or b""), reply.headers)
        if reply.content is None:
            return refused(f"an answer of more than {_MOST_BYTES >> 20} MB")
        if reply.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            return refused("an answer that is packed, though none was asked for")
        try:
            answer = json.loads(reply.content)
        except (ValueError, RecursionError):
            raise _NoAnswerError("the answer is not JSON", _TRIES_OF_PAID) from None
        error = answer.get("error") if isinstance(answer, dict) else None
        if error and not answer.get("choices"):
            code = error.get("code") if isinstance(error, dict) else None
            if not isinstance(code, int) or not 400 <= code < 600:
                code = 400
            return self._status(code, self._said(reply.content), reply.headers)
        return completion_of(answer, self._interface)

    def _status(self, status: int, said: str, headers: Mapping[str, str]) -> Completion:
        if status in _DOCUMENT_REFUSED:
            return refused(f"{status}: {said}")
        if status in _BUSY:
            raise _BusyError(f"{status}: {said}", after=headers.get("Retry-After", ""))
        if status >= 500:
            raise _NoAnswerError(f"{status}: {said}", after=headers.get("Retry-After", ""))
        hint = None
        if 300 <= status < 400:
            target = self._sentence(masked_address(headers.get("Location", "")))
            said = f"a redirect to '{target}', which is not followed"
            hint = "Put the final address into `llm.base_url` if you trust it: the key goes there."
        elif status in (401, 403):
            hint = f"Put your key into the environment variable {self._key_variable}."
        elif status == 404:
            hint = f"Does the server know a model named '{self._model}'? See {self._url}/models"
        raise ModelError(f"{self._url} refuses the request ({status}: {said}).", hint=hint)

    def _said(self, content: bytes) -> str:
        """What a server says of an error, in one line."""
        said = content[:4000].decode(errors="replace")
        try:
            value = json.loads(content)
            inner = value.get("error", value)
            said = str(inner.get("message", said) if isinstance(inner, dict) else inner)
        except (ValueError, AttributeError, RecursionError):
            pass
        return self._sentence(said)

    def _sentence(self, text: str) -> str:
        """A server's words on one line, short, with no secret and no sign that moves a cursor."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = text.encode(errors="replace").decode()
        return "".join(sign if sign.isprintable() else " " for sign in text)[:300].strip()


def _delay(wished: str, pause: float) -> float:
    """Seconds to wait: what ``Retry-After`` wishes (seconds or a date), within bounds.

    >>> _delay("7", 1.0), _delay("²", 1.0), _delay("9" * 5000, 2.0), _delay("-5", 4.0)
    (7.0, 1.0, 2.0, 4.0)
    """
    seconds = pause
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", wished.strip()):
        seconds = float(wished)
    elif wished:
        try:
            seconds = max(0.0, parsedate_to_datetime(wished).timestamp() - time.time())
        except (ValueError, TypeError, OverflowError, IndexError, OSError):
            seconds = pause
    return min(seconds, _LONGEST_WAIT)


def _run(work: Coroutine[Any, Any, list[Completion]]) -> list[Completion]:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    # A notebook has a loop of its own in this thread.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
