"""The steps of a retriever, from training pairs to a run: whatever family it is of."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar, cast

from sptar.config import RunConfig, TrainConfig
from sptar.retrieval.specs import RETRIEVERS, RetrieverSpec, retriever_spec
from sptar.steps.base import Step
from sptar.steps.bm25 import Bm25IndexStep, Bm25SearchStep
from sptar.steps.collection import CollectionStep
from sptar.steps.encode import EncodeStep
from sptar.steps.evaluate import RunStep
from sptar.steps.fuse import FuseStep
from sptar.steps.mine import MineStep
from sptar.steps.pairs import PairsStep
from sptar.steps.recipes import ModelIdentities, parts_of, recipe_of
from sptar.steps.rerank import RerankStep
from sptar.steps.search import SearchStep
from sptar.steps.split import SplitStep
from sptar.steps.teach import TeachStep
from sptar.steps.train import ChooseStep, TrainStep

__all__ = ["RetrieverChain", "TrainingSets", "searches_untrained"]

_CROSS_TEACHER = "bm25ce"
_LATE_TEACHER = "colbert"
_MINER = "dpr"
"""Row whose start encoder finds hard negatives for rows that cannot search untrained."""

_Made = TypeVar("_Made", bound=Step)


@dataclass(frozen=True, eq=False)
class TrainingSets:
    """What a method trains on: one training set, or one for each cut-off that dev chooses among."""

    sets: tuple[tuple[int, PairsStep], ...]
    choose: bool = False

    @property
    def first(self) -> PairsStep:
        """The training set, or that of the smallest cut-off."""
        return self.sets[0][1]


def searches_untrained(retriever: str) -> bool:
    """Whether a retriever, or every part of a fusion, can search with its start as it is.

    >>> searches_untrained("bm25+dpr"), searches_untrained("bm25ce")
    (True, False)
    """
    return all(part == "bm25" or RETRIEVERS[part].zero_shot for part in parts_of(retriever))


class RetrieverChain:
    """Builds the steps of every retriever of a run; what has the same causes is one step."""

    def __init__(
        self,
        config: RunConfig,
        collection: CollectionStep,
        split: SplitStep,
        index: Bm25IndexStep,
        models: ModelIdentities,
    ) -> None:
        self._config = config
        self._collection = collection
        self._split = split
        self._index = index
        self._models = models
        self._made: dict[Hashable, Step] = {}

    def _once(self, key: Hashable, make: Callable[[], _Made]) -> _Made:
        if key not in self._made:
            self._made[key] = make()
        return cast("_Made", self._made[key])

    def run(self, retriever: str, sets: TrainingSets | None) -> RunStep:
        """The step that gives the run of a retriever or fusion.

        Args:
            retriever: a row, ``bm25``, or a fusion of two.
            sets: what it is trained on; ``None`` takes the start as it is.
        """
        parts = parts_of(retriever)
        if len(parts) == 2:
            return self._once(("fuse", retriever, sets), lambda: self._fuse(parts, sets))
        if retriever == "bm25":
            return self.bm25(self._config.evaluate.top_k)
        if RETRIEVERS[retriever].is_reranker:
            return self._once(("rerank", retriever, sets), lambda: self._rerank(retriever, sets))
        return self._once(("search", retriever, sets), lambda: self._search(retriever, sets))

    def bm25(self, depth: int) -> Bm25SearchStep:
        """BM25's run to this depth."""
        return self._once(
            ("bm25", depth),
            lambda: Bm25SearchStep(
                collection=self._collection, split=self._split, bm25_index=self._index, top_k=depth
            ),
        )

    def trained(self, row: str, sets: TrainingSets) -> TrainStep | ChooseStep:
        """The trained model of a row."""
        if not sets.choose:
            return self.train(row, sets.first)
        return self._once(
            ("choose", row, sets),
            lambda: ChooseStep(train=tuple((k, self.train(row, pairs)) for k, pairs in sets.sets)),
        )

    def train(self, row: str, pairs: PairsStep) -> TrainStep:
        """The training of a row on one training set, with negatives and teachers as it needs."""
        return self._once(("train", row, id(pairs)), lambda: self._train(row, pairs))

    def encode(self, row: str, sets: TrainingSets | None) -> EncodeStep:
        """The corpus as a row sees it."""
        return self._once(
            ("encode", row, sets),
            lambda: EncodeStep(
                collection=self._collection,
                train=None if sets is None else self.trained(row, sets),
                recipe=self._recipe(row),
                models=self._models,
            ),
        )

    def _recipe(self, row: str) -> TrainConfig:
        return recipe_of(self._config, row)

    def _train(self, row: str, pairs: PairsStep) -> TrainStep:
        recipe = self._recipe(row)
        mined = self._mine(recipe, pairs)
        return TrainStep(
            collection=self._collection,
            split=self._split,
            bm25_index=self._index,
            pairs=pairs,
            mine=mined,
            teach=self._teach(recipe, pairs, mined),
            recipe=recipe,
            models=self._models,
            measure=self._config.evaluate.measures[0],
            relevance_level=self._config.evaluate.relevance_level,
            weak_per_document=self._config.augment.queries_per_document,
            seed=self._config.seed,
        )

    def _mine(self, recipe: TrainConfig, pairs: PairsStep) -> MineStep | None:
        if recipe.negatives == "none":
            return None
        encoded = None
        if recipe.negatives == "dense":
            searches = retriever_spec(recipe).zero_shot and not retriever_spec(recipe).is_reranker
            encoded = self.encode(recipe.retriever if searches else _MINER, None)
        return MineStep(
            collection=self._collection,
            split=self._split,
            bm25_index=self._index if recipe.negatives == "bm25" else None,
            pairs=pairs,
            recipe=recipe,
            encode=encoded,
            miner=None if encoded is None else encoded.recipe,
            seed=self._config.seed,
        )

    def _teach(
        self, recipe: TrainConfig, pairs: PairsStep, mined: MineStep | None
    ) -> TeachStep | None:
        if retriever_spec(recipe).loss != "margin_mse" or mined is None:
            return None
        late: TrainConfig | None = self._recipe(_LATE_TEACHER)
        if recipe.in_batch_teacher == "none" or recipe.in_batch_weight == 0:
            late = None
        return TeachStep(
            collection=self._collection,
            pairs=pairs,
            mine=mined,
            cross=self.train(_CROSS_TEACHER, pairs) if recipe.teacher == "own" else None,
            cross_recipe=self._recipe(_CROSS_TEACHER),
            late=self.train(_LATE_TEACHER, pairs)
            if late is not None and recipe.in_batch_teacher == "own"
            else None,
            late_recipe=late,
            student=recipe,
            models=self._models,
        )

    def _search(self, row: str, sets: TrainingSets | None) -> SearchStep:
        settings = self._config.search
        candidates = None
        if RETRIEVERS[row].family == "late_interaction" and settings.late_candidates == "bm25":
            candidates = self.bm25(settings.late_candidate_depth)
        encoded = self.encode(row, sets)
        return SearchStep(
            collection=self._collection,
            split=self._split,
            encode=encoded,
            train=encoded.train,
            recipe=encoded.recipe,
            candidates=candidates,
            top_k=self._config.evaluate.top_k,
        )

    def _rerank(self, row: str, sets: TrainingSets | None) -> RerankStep:
        spec: RetrieverSpec = RETRIEVERS[row]
        trained_row = spec.reranks or row
        return RerankStep(
            collection=self._collection,
            split=self._split,
            candidates=self.bm25(self._config.search.rerank_depth),
            train=None if sets is None else self.trained(trained_row, sets),
            encode=None if spec.reranks is None else self.encode(trained_row, sets),
            recipe=self._recipe(row),
            retriever=row,
            top_k=self._config.evaluate.top_k,
        )

    def _fuse(self, parts: tuple[str, ...], sets: TrainingSets | None) -> FuseStep:
        return FuseStep(
            first=self.run(parts[0], sets),
            second=self.run(parts[1], sets),
            parts=parts,
            search=self._config.search,
            top_k=self._config.evaluate.top_k,
        )
