"""How long steps would take, from short trials of the very work that they do."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sptar.config import TrainConfig
from sptar.retrieval.specs import retriever_spec
from sptar.steps.base import Context, Step
from sptar.steps.encode import EncodeStep
from sptar.steps.prompts import prompt_template
from sptar.steps.rerank import RerankStep
from sptar.steps.resources import (
    labelled_pairs,
    language_model,
    open_collection,
    open_split,
    queries_of,
    release_language_model,
)
from sptar.steps.select import SelectStep
from sptar.steps.train import DEV_CANDIDATES, TrainStep
from sptar.steps.tune import TuneStep
from sptar.types import Document, Pair, Run
from sptar.workspace import Artefact

if TYPE_CHECKING:
    from sptar.llm.loading import LanguageModel
    from sptar.llm.soft_prompt import SoftPrompt

__all__ = ["StepTime", "selecting_seconds", "times_of_retrievers", "tuning_seconds"]

_FEW_PAIRS = 4
_SCORED_PAIRS = 16
_TRAINED_PAIRS = 8
_READ_TEXTS = 32


@dataclass(frozen=True)
class StepTime:
    """All steps of a name: their number, and the seconds that they take together."""

    name: str
    steps: int
    seconds: float


def _second_time(work: Callable[[], object]) -> float:
    """Seconds of a second go: the first also pays for what is made once."""
    work()
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _start_prompt(step: TuneStep, model: LanguageModel) -> SoftPrompt | None:
    from sptar.llm.soft_prompt import SoftPrompt, initial_matrix

    if step.tune.method == "lora":
        return None
    return SoftPrompt(initial_matrix(model, step.tune, step.seed), step.llm.name, {})


def tuning_seconds(
    step: TuneStep, inputs: Mapping[str, Artefact], context: Context
) -> float | None:
    """Seconds of a soft prompt's tuning if it takes all its epochs; ``None`` of other tunings."""
    if step.tune.adapter is not None:
        return 0.0
    if step.tune.method == "lora":
        return None
    from sptar.llm.tuning.soft_prompts import tune_soft_prompt

    collection, split = open_collection(inputs, context), open_split(inputs, context)
    bound, seed = step.tune.pairs_per_query, step.seed
    train = labelled_pairs(collection, split.train, bound, seed)
    evaluation = labelled_pairs(collection, split.evaluation, bound, seed)
    model = language_model(step.llm, context)
    template = prompt_template(
        model,
        step.prompt,
        inputs,
        context,
        virtual_tokens=step.tune.virtual_tokens,
        max_new_tokens=step.max_new_tokens,
    )
    # Each pair has examples of other queries in front; both sides keep their proportion.
    queries = {pair.query.query_id: pair for pair in train}
    some = list(queries.values())[: max(_FEW_PAIRS, step.prompt.examples + 1)]
    others = evaluation[: math.ceil(len(some) * len(evaluation) / len(train))]
    tried = tune_soft_prompt(
        model,
        template,
        some,
        others,
        step.tune.model_copy(update={"epochs": 2, "patience": 2}),
        step.seed,
    )
    share = (len(train) + len(evaluation)) / (len(some) + len(others))
    # S_eval is also scored once before the first epoch, in less time than an epoch.
    return tried.history[-1].seconds * share * (step.tune.epochs + 1)


def selecting_seconds(step: SelectStep, inputs: Mapping[str, Artefact], context: Context) -> float:
    """Seconds of scoring the candidate groups."""
    if step.select.choice == "first":
        return 0.0
    from sptar.llm.engine.scoring import PromptedScorer
    from sptar.weak.group_search import search_rounds
    from sptar.weak.select import candidate_groups

    collection, split = open_collection(inputs, context), open_split(inputs, context)
    bound, seed = step.pairs_per_query, step.seed
    train = labelled_pairs(collection, split.train, bound, seed)
    evaluation = labelled_pairs(collection, split.evaluation, bound, seed)
    model = language_model(step.llm, context)
    soft_prompt = _start_prompt(step.tune, model) if isinstance(step.tune, TuneStep) else None
    template = prompt_template(
        model,
        step.prompt,
        inputs,
        context,
        virtual_tokens=0 if soft_prompt is None else soft_prompt.virtual_tokens,
        max_new_tokens=step.max_new_tokens,
    )
    scorer = PromptedScorer(model, template, soft_prompt, step.select.batch_size)
    pairs = evaluation[:_SCORED_PAIRS]
    examples = train[: step.prompt.examples]
    seconds = _second_time(lambda: scorer.query_losses(examples, pairs)) / len(pairs)
    groups = candidate_groups(train, step.prompt.examples, step.select.groups, seed)
    rounds = search_rounds(
        step.select.search, len(groups), len(evaluation), step.select.halving_pairs
    )
    return seconds * sum(part.query_losses for part in rounds)


@dataclass(frozen=True)
class _Rates:
    """Seconds of the gradient of one pair, of a step of the optimizer, and of reading one text (a
    reranker: one pair)."""

    pair: float
    step: float
    text: float


def times_of_retrievers(
    steps: Sequence[Step], inputs: Mapping[str, Artefact], context: Context
) -> list[StepTime]:
    """Training (all its epochs), encoding and reranking by cross-encoders, among these steps.

    Each recipe is tried once: its start trains on a few labelled pairs and reads a few documents.
    """
    release_language_model(context)
    corpus = open_collection(inputs, context).corpus
    split = open_split(inputs, context)
    rates: dict[str, _Rates] = {}
    found: dict[str, list[float]] = {}
    for step in steps:
        if not isinstance(step, TrainStep | EncodeStep | RerankStep):
            continue
        if isinstance(step, RerankStep) and step.encode is not None:
            continue
        recipe = step.recipe
        key = recipe.model_dump_json()
        if key not in rates:
            rates[key] = _rates(recipe, inputs, context)
        rate = rates[key]
        if isinstance(step, TrainStep):
            dev = len(split.dev) * (1 + recipe.dev_negatives)
            if retriever_spec(recipe).is_reranker:
                read = len(split.dev) * min(dev, DEV_CANDIDATES)
            else:
                read = min(dev, len(corpus))
            batch = recipe.batch_size * rate.pair + rate.step
            seconds = recipe.epochs * _batches(step, inputs, context) * batch
            # Dev is also searched once before the first epoch.
            seconds += (recipe.epochs + 1) * read * rate.text
        elif isinstance(step, EncodeStep):
            seconds = len(corpus) * rate.text
        else:
            depth = min(step.candidates.top_k, len(corpus))
            seconds = len(split.test) * depth * rate.text
        found.setdefault(step.name, []).append(seconds)
    return [StepTime(name, len(seconds), sum(seconds)) for name, seconds in found.items()]


def _batches(step: TrainStep, inputs: Mapping[str, Artefact], context: Context) -> int:
    """Batches of an epoch, when every weak query that can be kept is kept."""
    if isinstance(step.recipe.steps_per_epoch, int):
        return step.recipe.steps_per_epoch
    split = open_split(inputs, context)
    labels = len(labelled_pairs(open_collection(inputs, context), split.train))
    weak = len(split.augment) * step.weak_per_document
    return math.ceil((labels + weak) / step.recipe.batch_size)


def _rates(recipe: TrainConfig, inputs: Mapping[str, Artefact], context: Context) -> _Rates:
    import numpy as np
    import torch

    from sptar.training.dev_set import DevSet
    from sptar.training.protocols import TrainingBatch
    from sptar.training.students import load_trainable
    from sptar.training.texts import TrainingTexts

    collection, split = open_collection(inputs, context), open_split(inputs, context)
    known = labelled_pairs(collection, split.train)
    pairs: list[Pair] = [
        known[number % len(known)] for number in range(min(_TRAINED_PAIRS, recipe.batch_size))
    ]
    places = range(0, len(collection.corpus), max(1, len(collection.corpus) // _READ_TEXTS))
    documents: list[Document] = [collection.corpus[place] for place in places][:_READ_TEXTS]
    queries = queries_of(collection, split.dev[:2])
    candidates: Run = {
        query.query_id: {document.doc_id: 0.0 for document in documents[: _READ_TEXTS // 2]}
        for query in queries
    }
    texts = TrainingTexts.of(pairs)
    count = 0 if recipe.negatives == "none" else recipe.negatives_per_pair
    negatives = tuple(document.full_text for document in documents[:count])
    margins = retriever_spec(recipe).loss == "margin_mse"
    batch = TrainingBatch(
        numbers=tuple(range(len(pairs))),
        queries=texts.queries,
        positives=texts.documents,
        negatives=(negatives,) * len(pairs),
        teacher=np.zeros((len(pairs), 1 + count), np.float32) if margins else None,
        in_batch=np.zeros((len(pairs),) * 2, np.float32)
        if margins and recipe.in_batch_teacher != "none"
        else None,
    )
    trainable = load_trainable(recipe, DevSet(queries, documents, {}, candidates=candidates))
    learned = [weight for weight in trainable.module.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=recipe.learning_rate)

    def gradient() -> None:
        trainable.module.train()
        optimizer.zero_grad(set_to_none=True)
        trainable.loss(batch).backward()  # type: ignore[no-untyped-call]

    def read() -> None:
        trainable.module.eval()
        with torch.inference_mode():
            trainable.rank(queries, documents, 10)

    read_texts = (
        sum(map(len, candidates.values())) if retriever_spec(recipe).is_reranker else len(documents)
    )
    return _Rates(
        pair=_second_time(gradient) / len(pairs),
        step=_second_time(optimizer.step),
        text=_second_time(read) / max(1, read_texts),
    )
