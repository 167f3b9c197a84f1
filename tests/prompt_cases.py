"""Prompts on tiny models for the generation and scoring tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from sptar.config import AugmentConfig, LanguageModelConfig, PromptConfig
from sptar.llm.engine.generation import PromptedGenerator
from sptar.llm.engine.scoring import PromptedScorer
from sptar.llm.loading import LanguageModel, load_language_model
from sptar.llm.soft_prompt import SoftPrompt
from sptar.llm.template import PromptTemplate
from sptar.llm.trial import try_model
from sptar.progress import silent
from sptar.types import Generation, GenerationRequest, Pair, Progress
from tiny import DOCUMENTS, PAIRS

VIRTUAL_TOKENS = 5
REQUESTS = tuple(GenerationRequest(document) for document in DOCUMENTS)
EXAMPLES = PAIRS[-2:]
"""The example pairs of the test prompts (the first M of them)."""


@lru_cache(maxsize=8)
def language_model(folder: Path) -> LanguageModel:
    """A tiny model, loaded once."""
    return load_language_model(LanguageModelConfig(name=str(folder), device="cpu"))


def random_soft_prompt(model: LanguageModel, seed: int = 1) -> SoftPrompt:
    """Random virtual tokens as wide as the embeddings."""
    spread = float(model.model.get_input_embeddings().weight.detach().std())
    stream = torch.Generator().manual_seed(seed)
    matrix = torch.randn(VIRTUAL_TOKENS, model.hidden_size, generator=stream) * spread
    return SoftPrompt(matrix, base_model=model.config.name, provenance={})


@dataclass(frozen=True)
class PromptCase:
    """One language model with one prompt."""

    model: LanguageModel
    soft_prompt: SoftPrompt | None
    examples: tuple[Pair, ...]
    max_new_tokens: int = 12

    @property
    def template(self) -> PromptTemplate:
        """The default template for this prompt; documents are cut to 40 tokens."""
        return PromptTemplate(
            self.model,
            PromptConfig(examples=len(self.examples), max_document_tokens=40, max_query_tokens=16),
            virtual_tokens=0 if self.soft_prompt is None else VIRTUAL_TOKENS,
            max_new_tokens=self.max_new_tokens,
        )

    def config(self, **settings: Any) -> AugmentConfig:
        """Decoding settings; greedy unless told otherwise."""
        values = {"decoding": "greedy", "max_new_tokens": self.max_new_tokens, "batch_size": 5}
        return AugmentConfig(**(values | settings))

    def generator(self, progress: Progress = silent, **settings: Any) -> PromptedGenerator:
        """The generator under test, seeded with 7."""
        config = self.config(**settings)
        return PromptedGenerator(
            self.model, self.template, self.soft_prompt, self.examples, config, 7, progress
        )

    def generate(
        self, requests: Sequence[GenerationRequest] = REQUESTS, **settings: Any
    ) -> list[Generation]:
        """Answers of a fresh generator."""
        return self.generator(**settings).generate(requests)

    def scorer(self, batch_size: int = 3) -> PromptedScorer:
        """The scorer under test."""
        return PromptedScorer(self.model, self.template, self.soft_prompt, batch_size)


def prompt_case(folder: Path, *, soft: bool = True, examples: int = 1) -> PromptCase:
    """A prompt with or without virtual tokens, and with M examples."""
    model = language_model(folder)
    return PromptCase(model, random_soft_prompt(model) if soft else None, EXAMPLES[:examples])


def stopping_often(case: PromptCase, every: int = 9) -> PromptCase:
    """The same prompt for a model that also stops at every so-many-th token of its vocabulary.

    Random weights seldom choose one of the few real stop tokens; with these, rows end at
    different steps and leave their batch.
    """
    more = frozenset(range(0, len(case.model.tokenizer), every))
    model = replace(case.model, stop_token_ids=case.model.stop_token_ids | more)
    return replace(case, model=model)


def other_architecture(folder: Path, make: Callable[[dict[str, Any]], Any]) -> LanguageModel:
    """A tiny model of another class behind the tokenizer in ``folder``.

    ``make`` gets the settings that all configs share.
    """
    base = language_model(folder)
    common = {"vocab_size": len(base.tokenizer), "bos_token_id": None, "pad_token_id": None}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make(common | {"eos_token_id": base.end_token_id}).eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    letters = base.encode(DOCUMENTS[1].full_text)
    return replace(base, model=model, verdict=try_model(model, "tiny", letters))
