"""What a config and a look at the models tell before anything long begins.

Whatever a late step would refuse for the config's sake alone is refused here, by that step's own
words where it has some: a run of hours must not end at a setting that could have been read at once.
What depends on the data comes with the first steps, which read and split the collection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sptar.config import RunConfig, TrainConfig
from sptar.devices import usable_device
from sptar.errors import ConfigError
from sptar.methods import method_named
from sptar.retrieval.specs import retriever_spec
from sptar.steps.augment import AugmentStep
from sptar.steps.base import Context, Step
from sptar.steps.encode import EncodeStep
from sptar.steps.rerank import RerankStep
from sptar.steps.select import SelectStep
from sptar.steps.teach import TeachStep
from sptar.steps.train import TrainStep
from sptar.steps.tune import TuneStep

__all__ = ["refuse_settings", "try_starts"]


def refuse_settings(config: RunConfig, missing: Iterable[Step]) -> None:
    """Refuse what cannot be, whatever the data hold.

    Args:
        missing: steps that are to be made; devices, servers and folders are asked for their sake.

    Raises:
        ConfigError, ModelError: a setting that a later step would refuse.
    """
    from sptar.evaluation.measures import parse_measures
    from sptar.retrieval.lexical.analyzer import Analyzer

    parse_measures(config.evaluate.measures)
    Analyzer(config.filter.language)
    steps = list(missing)
    writing = [step for step in steps if isinstance(step, TuneStep | SelectStep | AugmentStep)]
    if writing:
        _refuse_writer(config, writing)
    if any(isinstance(step, TrainStep) for step in steps):
        _refuse_one_query(config)
    for recipe in _recipes(steps):
        _refuse_recipe(recipe)


def _refuse_one_query(config: RunConfig) -> None:
    """Training takes the other queries of a batch as negatives."""
    if config.split.mode == "paper" or config.split.train_queries > 1:
        return
    for method in config.methods:
        row = method_named(method)
        if row.ranks_with == "trained" and not row.takes_weak_queries:
            raise ConfigError(
                f"method '{method}' and `split.train_queries: 1` contradict each other: it trains "
                "on S_train alone, and training needs pairs of two queries or more.",
                hint="Raise `split.train_queries`, or leave the method out.",
            )


def _refuse_writer(config: RunConfig, steps: Sequence[Step]) -> None:
    llm = config.llm
    assert llm is not None
    writes = any(isinstance(step, AugmentStep) for step in steps)
    if writes and llm.backend != "transformers":
        from sptar.llm.hosted.generators import completions_client

        completions_client(llm, llm.served_name or llm.name)
        if llm.backend == "vllm" and llm.export is not None:
            from sptar.llm.vocabulary_export import load_export

            load_export(llm.export)
    # A hosted model writes elsewhere; vLLM's soft prompt is tuned here.
    if llm.backend == "transformers" or any(isinstance(step, TuneStep) for step in steps):
        usable_device(llm.device, "llm.device")
        if config.tune.adapter is not None and any(isinstance(step, TuneStep) for step in steps):
            from sptar.llm.soft_prompt import read_adapter_config

            read_adapter_config(Path(config.tune.adapter))


def _refuse_recipe(recipe: TrainConfig) -> None:
    usable_device(recipe.device, "train.device")
    if recipe.processes > 1:
        from sptar.training.distributed import refuse_idle_processes, training_device

        refuse_idle_processes(recipe.processes, recipe.batch_size)
        training_device(recipe.device, recipe.processes)


def _recipes(steps: list[Step]) -> Iterator[TrainConfig]:
    """Recipes of missing steps that compute with an encoder, each once."""
    seen: list[TrainConfig] = []
    for step in steps:
        if isinstance(step, TrainStep | EncodeStep | RerankStep) and step.recipe not in seen:
            seen.append(step.recipe)
            yield step.recipe


def try_starts(steps: Iterable[Step], context: Context) -> None:
    """Load every model that retrievers start from or learn from, and let go of it again.

    A folder that holds no encoder, an architecture that cannot be one, a recipe that does not fit:
    all this is found in seconds, and would come up after the writing otherwise.

    Args:
        steps: those that are there already need no model.

    Raises:
        ConfigError, ModelError: a model cannot be loaded, or does not fit its recipe.
    """
    from sptar.retrieval.families import load_corpus_encoder, load_reranker

    tried: list[TrainConfig] = []

    def attempt(name: str | None, recipe: TrainConfig) -> None:
        key = recipe if name is None else recipe.model_copy(update={"start": name})
        if key in tried:
            return
        tried.append(key)
        load = (
            load_reranker
            if retriever_spec(recipe).family == "cross_encoder"
            else load_corpus_encoder
        )
        load(name, recipe, progress=context.progress)

    for step in steps:
        if context.workspace.find(step.name, step.fingerprint) is not None:
            continue
        if isinstance(step, EncodeStep | TrainStep):
            if isinstance(step, TrainStep) or step.train is None:
                attempt(None, step.recipe)
        elif isinstance(step, TeachStep):
            if step.cross is None:
                attempt(step.student.teacher, step.cross_recipe)
            if step.late is None and step.late_recipe is not None:
                attempt(step.student.in_batch_teacher, step.late_recipe)
