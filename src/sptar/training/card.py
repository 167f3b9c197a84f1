"""The README.md of a trained retriever: what it is, what it was made from, how to use it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol, runtime_checkable

from sptar.config import TrainConfig
from sptar.packaged import name_of
from sptar.retrieval.specs import Family, RetrieverSpec
from sptar.training.dev_set import DevSet
from sptar.training.state import EpochRecord
from sptar.training.texts import TrainingTexts

__all__ = ["CardFacts", "TellsHowItReads", "model_card", "prompts_in_words"]

_PACKAGES = ("sptar", "sentence-transformers", "transformers", "torch")
_HUB_NAME = re.compile(r"^[\w.-]+(/[\w.-]+)?$")


@runtime_checkable
class TellsHowItReads(Protocol):
    """A retriever that can say for its card how texts are read, in whole sentences."""

    def reading_in_words(self) -> str: ...


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What the card tells beyond the recipe.

    ``reading`` says in sentences how texts are read, empty for what the recipe says.
    """

    reading: str
    pairs: int
    queries: int
    documents: int
    negatives_per_pair: int
    dev_queries: int
    dev_documents: int
    best_epoch: int
    start_dev_score: float | None
    history: tuple[EpochRecord, ...]
    seed: int
    dev_measure: str

    @classmethod
    def of(
        cls,
        trainable: object,
        texts: TrainingTexts,
        dev: DevSet,
        *,
        history: Sequence[EpochRecord],
        best_epoch: int,
        start_dev_score: float | None,
        seed: int,
        dev_measure: str,
    ) -> CardFacts:
        """The facts of a finished training run."""
        return cls(
            reading=trainable.reading_in_words() if isinstance(trainable, TellsHowItReads) else "",
            pairs=len(texts.queries),
            queries=len(set(texts.queries)),
            documents=len(set(texts.documents)),
            negatives_per_pair=len(texts.negatives[0]) if texts.negatives else 0,
            dev_queries=len(dev.queries),
            dev_documents=len(dev.documents),
            best_epoch=best_epoch,
            start_dev_score=start_dev_score,
            history=tuple(history),
            seed=seed,
            dev_measure=dev_measure,
        )


@dataclass(frozen=True, slots=True)
class _Library:
    """How the plain library uses a family's folder."""

    model_class: str
    pipeline: str
    tags: str
    use: tuple[str, ...]


_ENCODES = (
    'queries = model.encode_query(["a question"])',
    'documents = model.encode_document(["Title and text of a document"])',
    "print(model.similarity(queries, documents))",
)
_LIBRARIES: dict[Family, _Library] = {
    "bi_encoder": _Library(
        "SentenceTransformer",
        "sentence-similarity",
        "feature-extraction, dense-retrieval",
        _ENCODES,
    ),
    "late_interaction": _Library(
        "MultiVectorEncoder", "sentence-similarity", "multi-vector, late-interaction", _ENCODES
    ),
    "sparse": _Library("SparseEncoder", "feature-extraction", "sparse-encoder, splade", _ENCODES),
    "cross_encoder": _Library(
        "CrossEncoder",
        "text-ranking",
        "cross-encoder, reranker",
        ('print(model.predict([("a question", "Title and text of a document")]))',),
    ),
}


def model_card(facts: CardFacts, spec: RetrieverSpec, config: TrainConfig) -> str:
    """Markdown with the front matter that the Hugging Face hub reads; no paths of any machine."""
    library = _LIBRARIES[spec.family]
    kind = "Reranker" if spec.is_reranker else "Retriever"
    return "\n".join(
        [
            *_front_matter(library, config),
            "",
            f"# {kind} ({spec.name}) trained with SPTAR",
            "",
            f"{spec.description}. Start model: {_starts(config)}. "
            f"{facts.reading or _reading(spec, config)}",
            "",
            "## Use",
            "```python",
            f"from sentence_transformers import {library.model_class}",
            "",
            f'model = {library.model_class}("path/to/this/folder")',
            *library.use,
            "```",
            "Join the title and the text of a document with a blank.",
            "",
            "## Training data",
            f"{facts.pairs} pairs of a query and a document that answers it: {facts.queries} "
            f"distinct queries, {facts.documents} distinct documents.",
            *_negatives(facts, config),
            *_teachers(spec, config),
            "",
            "## Recipe",
            *_recipe(facts, spec, config),
            "",
            "## Choice of the checkpoint",
            *_choice(facts),
            "",
            "## Made with",
            ", ".join(map(_with_version, _PACKAGES)) + ".",
            "",
        ]
    )


def _name(model: str) -> str:
    """A name as it is, of a folder its last part: the rest says something of a machine."""
    known = name_of(model)
    return Path(known).resolve().name if Path(known).is_dir() else known


def _starts(config: TrainConfig) -> str:
    start = f"`{_name(config.start)}`"
    if config.towers == "shared":
        return start
    queries = f"`{_name(config.query_start or config.start)}`"
    return f"{start} for documents, {queries} for queries"


def _front_matter(library: _Library, config: TrainConfig) -> list[str]:
    lines = [
        "---",
        "library_name: sentence-transformers",
        f"pipeline_tag: {library.pipeline}",
        f"tags: [sentence-transformers, {library.tags}, sptar]",
    ]
    if not Path(config.start).is_dir() and _HUB_NAME.match(config.start):
        lines.append(f"base_model: {config.start}")
    return [*lines, "---"]


def _reading(spec: RetrieverSpec, config: TrainConfig) -> str:
    if spec.family == "cross_encoder":
        bound = f"At most {config.max_tokens} tokens of a query and a document together are read."
    elif config.max_query_tokens is not None:
        bound = (
            f"At most {config.max_query_tokens} tokens of a query and {config.max_tokens} of a "
            "document are read."
        )
    else:
        bound = f"At most {config.max_tokens} tokens of a text are read."
    return f"{bound} {prompts_in_words(config.query_prompt, config.document_prompt)}"


def prompts_in_words(query_prompt: str, document_prompt: str) -> str:
    """What has to stand in front of the texts."""
    if not (query_prompt or document_prompt):
        return "Queries and documents need no prompt."
    return (
        f"Texts need their prompts: `{query_prompt!r}` in front of a query, "
        f"`{document_prompt!r}` in front of a document."
    )


def _negatives(facts: CardFacts, config: TrainConfig) -> list[str]:
    if not facts.negatives_per_pair:
        return []
    origin = {
        "none": "given with the pairs",
        "random": "drawn from the corpus",
        "bm25": f"drawn from BM25's best {config.mine_depth} documents",
        "dense": f"drawn from the start encoder's best {config.mine_depth} documents",
    }[config.negatives]
    skipped = f", the best {config.mine_skip} left out" if config.mine_skip else ""
    return [
        "",
        f"Hard negatives of each pair: {facts.negatives_per_pair}, {origin}{skipped}. Documents "
        "known to answer the query are none.",
    ]


def _teachers(spec: RetrieverSpec, config: TrainConfig) -> list[str]:
    if spec.loss != "margin_mse":
        return []
    lines = [
        "",
        f"Teacher of the margins: {_teacher(config.teacher, 'cross-encoder')}.",
    ]
    if config.in_batch_teacher != "none":
        lines.append(
            "Teacher within a batch: "
            f"{_teacher(config.in_batch_teacher, 'late-interaction model')}, weight "
            f"{config.in_batch_weight:g}."
        )
    foreign = [name for name in (config.teacher, config.in_batch_teacher) if name not in _OURS]
    if foreign:
        lines.append(
            "A teacher that was trained on labels from elsewhere is supervision: this model has "
            "learned from more than the pairs above, and must not be compared with models that "
            "have not as if it had."
        )
    return lines


_OURS = ("own", "none")


def _teacher(name: str, kind: str) -> str:
    return f"a {kind} trained on the same pairs" if name == "own" else f"`{_name(name)}`"


def _objective(facts: CardFacts, spec: RetrieverSpec, config: TrainConfig) -> str:
    if spec.loss == "binary":
        return f"Binary cross-entropy of single pairs; batches of {config.batch_size} pairs."
    if spec.loss == "margin_mse":
        return (
            "Mean squared error of the teacher's margins (scale of the similarity "
            f"{config.scale:g}); batches of {config.batch_size} pairs from one topic, with "
            "balanced margins."
        )
    columns = "documents of the batch"
    if facts.negatives_per_pair:
        columns += ", hard negatives included"
    return (
        f"Softmax over the {columns} (scale {config.scale:g}); batches of {config.batch_size} "
        "pairs without known false negatives."
    )


def _recipe(facts: CardFacts, spec: RetrieverSpec, config: TrainConfig) -> list[str]:
    lines = [f"- {_objective(facts, spec, config)}"]
    if spec.start_layers == "lora":
        lines.append(
            f"- Trained was a low-rank update (rank {config.lora_rank}, alpha "
            f"{config.lora_alpha:g}) of the linear layers, merged into these weights."
        )
    if spec.family == "sparse":
        lines.append(
            f"- FLOPS regulariser: {config.query_sparsity:g} on queries, "
            f"{config.document_sparsity:g} on documents."
        )
    return [
        *lines,
        f"- AdamW, learning rate {config.learning_rate:g}, {config.warmup:.0%} warm-up and "
        f"linear decay, weight decay {spec.weight_decay:g}, gradients clipped at "
        f"{spec.max_gradient_norm:g}, {config.dtype}, seed {facts.seed}.",
        f"- {_length(facts, config)}",
    ]


def _length(facts: CardFacts, config: TrainConfig) -> str:
    """How long the training was, and how long it might have been."""
    made = sum(record.steps for record in facts.history)
    stop = (
        ""
        if config.patience is None
        else f"; training stops after {config.patience} epochs without gain on dev"
    )
    return f"{len(facts.history)} of {config.epochs} epochs, {made:,} steps in all{stop}."


def _choice(facts: CardFacts) -> list[str]:
    kept = (
        "the untrained start: no epoch was better on the dev queries"
        if facts.best_epoch == 0
        else f"epoch {facts.best_epoch} of {len(facts.history)}"
    )
    return [
        f"{facts.dev_measure} on {facts.dev_queries} dev queries over a reduced corpus of "
        f"{facts.dev_documents} documents. It is higher than on the whole collection and is "
        f"no test result. Kept: {kept}.",
        "",
        f"| epoch | loss | {facts.dev_measure} |",
        "| --- | --- | --- |",
        f"| start | – | {_number(facts.start_dev_score)} |",
        *(
            f"| {record.epoch} | {record.loss:.4f} | {_number(record.dev_score)} |"
            for record in facts.history
        ),
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _with_version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:  # run from a source tree that is not installed
        return package
