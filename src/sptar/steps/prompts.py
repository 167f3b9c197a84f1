"""The prompt's template as every step of a run must see it, with the limits of its queries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sptar.config import PromptConfig
from sptar.methods import TARGET
from sptar.steps.base import Context
from sptar.steps.resources import open_collection, open_split, queries_of
from sptar.workspace import Artefact

if TYPE_CHECKING:
    from sptar.llm.loading import LanguageModel
    from sptar.llm.template import PromptTemplate

__all__ = ["labelled_queries", "prompt_template"]


def labelled_queries(inputs: Mapping[str, Artefact], context: Context) -> list[str]:
    """The queries whose lengths a run may know: those of S_train and S_eval."""
    split = open_split(inputs, context)
    known = queries_of(open_collection(inputs, context), [*split.train, *split.evaluation])
    return [query.text for query in known]


def prompt_template(
    model: LanguageModel,
    prompt: PromptConfig,
    inputs: Mapping[str, Artefact],
    context: Context,
    *,
    virtual_tokens: int,
    max_new_tokens: int | None,
    style: str = TARGET.name,
) -> PromptTemplate:
    """The template for one model, its limits from the config or else from the labelled queries.

    Tuning, selecting and writing read the same labels, so all of them cut alike.
    """
    from sptar.llm.query_limits import query_limits
    from sptar.llm.template import PromptTemplate

    limits = query_limits(model, prompt, max_new_tokens, labelled_queries(inputs, context))
    return PromptTemplate(
        model,
        prompt.model_copy(update={"max_query_tokens": limits.read}),
        style,
        virtual_tokens=virtual_tokens,
        max_new_tokens=limits.written,
    )
