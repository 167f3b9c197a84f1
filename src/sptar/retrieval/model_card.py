"""The README.md of a trained retriever: what it is, what it was made from, how to use it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from sptar.config import TrainConfig
from sptar.retrieval.specs import RetrieverSpec
from sptar.retrieval.training_state import EpochRecord

__all__ = ["CardFacts", "model_card"]

_PACKAGES = ("sptar", "sentence-transformers", "transformers", "torch")
_HUB_NAME = re.compile(r"^[\w.-]+(/[\w.-]+)?$")


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What the card tells beyond the recipe."""

    base_model: str
    base_is_hub_name: bool
    dimension: int
    max_tokens: int | None
    pooling: str
    query_prompt: str
    document_prompt: str
    pairs: int
    queries: int
    documents: int
    dev_queries: int
    dev_documents: int
    best_epoch: int
    start_dev_score: float | None
    history: tuple[EpochRecord, ...]
    seed: int
    dev_measure: str


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _with_version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:  # run from a source tree that is not installed
        return package


def model_card(facts: CardFacts, spec: RetrieverSpec, config: TrainConfig) -> str:
    """Markdown with the front matter that the Hugging Face hub reads; no paths of any machine."""
    front = [
        "---",
        "library_name: sentence-transformers",
        "pipeline_tag: sentence-similarity",
        "tags: [sentence-transformers, feature-extraction, dense-retrieval, sptar]",
    ]
    if facts.base_is_hub_name and _HUB_NAME.match(facts.base_model):
        front.append(f"base_model: {facts.base_model}")
    front.append("---")
    kept = (
        "the untrained start: no epoch was better on the dev queries"
        if facts.best_epoch == 0
        else f"epoch {facts.best_epoch} of {len(facts.history)}"
    )
    rows = [f"| start | – | {_number(facts.start_dev_score)} |"]
    rows += [
        f"| {record.epoch} | {record.loss:.4f} | {_number(record.dev_score)} |"
        for record in facts.history
    ]
    prompts = (
        f"Texts need their prompts: `{facts.query_prompt!r}` in front of a query, "
        f"`{facts.document_prompt!r}` in front of a document. `encode_query` and `encode_document` "
        "put them there."
        if facts.query_prompt or facts.document_prompt
        else "Queries and documents need no prompt. Join title and text with a blank."
    )
    return "\n".join(
        [
            *front,
            "",
            f"# Dense retriever ({spec.name}) trained with SPTAR",
            "",
            f"A {spec.description}. Start model: `{facts.base_model}`. A text becomes a vector of "
            f"{facts.dimension} numbers; at most {facts.max_tokens or 'unlimited'} tokens of it "
            f"are read ({facts.pooling} pooling); vectors are compared by {spec.similarity}.",
            "",
            "## Use",
            "```python",
            "from sentence_transformers import SentenceTransformer",
            "",
            'model = SentenceTransformer("path/to/this/folder")',
            'queries = model.encode_query(["a question"])',
            'documents = model.encode_document(["Title and text of a document"])',
            "print(model.similarity(queries, documents))",
            "```",
            prompts,
            "",
            "## Training data",
            f"{facts.pairs} pairs of a query and a document that answers it: {facts.queries} "
            f"distinct queries, {facts.documents} distinct documents.",
            "",
            "## Recipe",
            f"- Softmax over the documents of the batch (scale {spec.scale:g}); batches of "
            f"{config.batch_size} pairs without known false negatives.",
            f"- AdamW, learning rate {config.learning_rate:g}, {config.warmup:.0%} warm-up and "
            f"linear decay, weight decay {spec.weight_decay:g}, gradients clipped at "
            f"{spec.max_gradient_norm:g}, {config.dtype}, seed {facts.seed}.",
            f"- At most {config.epochs} epochs, stopped after {config.patience} without gain on "
            "dev.",
            "",
            "## Choice of the checkpoint",
            f"{facts.dev_measure} on {facts.dev_queries} dev queries over a reduced corpus of "
            f"{facts.dev_documents} documents. It is higher than on the whole collection and is "
            f"no test result. Kept: {kept}.",
            "",
            f"| epoch | loss | {facts.dev_measure} |",
            "| --- | --- | --- |",
            *rows,
            "",
            "## Made with",
            ", ".join(map(_with_version, _PACKAGES)) + ".",
            "",
        ]
    )
