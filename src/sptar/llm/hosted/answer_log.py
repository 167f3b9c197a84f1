"""Answers that were paid for, on disk as they come: a killed run asks for none of them again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from sptar.identity import hash_json
from sptar.io import to_json
from sptar.llm.hosted.answers import Completion

__all__ = ["AnswerLog"]


class AnswerLog:
    """One line for each answer of a block of documents, known by the question.

    A question is the whole body of its request, so an answer is found again only by whoever asks
    the same model for the same thing.
    """

    def __init__(self) -> None:
        self._known: dict[str, Completion] = {}
        self._stream: BinaryIO | None = None

    @contextmanager
    def open(self, path: Path) -> Iterator[None]:
        """Take up the answers in a file, and add to it until the block is done."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as stream:
            stream.seek(0)
            whole = 0
            for line in stream:
                if not line.endswith(b"\n"):
                    break  # a kill tore it
                whole += len(line)
                self._take(line)
            stream.truncate(whole)
            self._stream = stream
            try:
                yield
            finally:
                self._stream = None
                self._known = {}

    def _take(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            self._known[row["question"]] = Completion(**row["answer"])
        except (ValueError, KeyError, TypeError):
            return  # a damaged line: its question is asked again

    def find(self, question: Mapping[str, Any]) -> Completion | None:
        """The answer to a question, if there was one."""
        return self._known.get(hash_json(question)) if self._known else None

    def add(self, question: Mapping[str, Any], answer: Completion) -> None:
        """Write an answer, and see that it is on disk."""
        if self._stream is None:
            return
        row = to_json({"question": hash_json(question), "answer": asdict(answer)})
        self._stream.write(row.encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
