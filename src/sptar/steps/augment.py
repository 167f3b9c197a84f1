"""Step ``augment``: the language model writes queries for the unlabelled documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from sptar.blocks import Block, JsonlBlocks
from sptar.config import AugmentConfig, LanguageModelConfig, PromptConfig, result_settings
from sptar.io import read_jsonl
from sptar.steps.base import Context, Output, Step
from sptar.steps.collection import CollectionStep
from sptar.steps.resources import open_collection, open_split
from sptar.steps.select import SelectStep
from sptar.steps.split import SplitStep
from sptar.steps.tune import TuneStep, prompted_model
from sptar.workspace import Artefact

__all__ = ["AugmentStep"]


@dataclass(frozen=True)
class AugmentStep(Step):
    """Writes exactly n rows for each document, block by block."""

    name: ClassVar[str] = "augment"
    collection: CollectionStep
    split: SplitStep
    tuned: TuneStep | None
    examples: SelectStep
    llm: LanguageModelConfig
    llm_identity: str
    prompt: PromptConfig
    style: str
    augment: AugmentConfig
    seed: int

    @property
    def settings(self) -> dict[str, Any]:
        """The model, the prompt's wording, decoding, and the seed."""
        return {
            "llm": self.llm_identity,
            "dtype": self.llm.dtype,
            "prompt": result_settings(self.prompt),
            "style": self.style,
            "augment": result_settings(self.augment),
            "seed": self.seed,
        }

    @property
    def inputs(self) -> Mapping[str, Step]:
        """Collection, split, chosen examples and, if there is one, the soft prompt."""
        inputs: dict[str, Step] = {
            "collection": self.collection,
            "split": self.split,
            "select": self.examples,
        }
        if self.tuned is not None:
            inputs["tune"] = self.tuned
        return inputs

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Generate the missing blocks and join all of them."""
        from sptar.weak.augment import WeakQueryIds, augment_block, choose_prefix

        collection = open_collection(inputs, context)
        positions = open_split(inputs, context).augment
        blocks = JsonlBlocks.open(
            output.unfinished / "blocks",
            items=len(positions),
            block_size=self.augment.block_size,
        )
        missing = blocks.missing()
        progress = context.progress
        if missing:
            generator = self.generator(inputs, context)
            new_ids = WeakQueryIds(choose_prefix(collection.queries))
            progress.start("Writing weak queries", sum(b.stop - b.start for b in missing), "docs")

            def work(block: Block) -> None:
                documents = [collection.corpus[int(p)] for p in positions[block.start : block.stop]]
                rows = augment_block(documents, generator, self.augment, new_ids)
                blocks.write(block, (asdict(row) for row in rows))

            context.executor.run(missing, work)
            progress.finish()
        blocks.join(output.path("weak_queries.jsonl"))
        return self._summary(output, len(positions))

    def generator(self, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """The generator of this step: model, prompt and chosen examples."""
        from sptar.llm.generation import PromptedGenerator
        from sptar.llm.template import PromptTemplate
        from sptar.weak.select import load_selection

        examples = load_selection(inputs["select"].path("selection.json")).examples
        model, soft_prompt = prompted_model(self.llm, inputs.get("tune"), context)
        template = PromptTemplate(
            model,
            self.prompt,
            self.style,
            virtual_tokens=0 if soft_prompt is None else soft_prompt.matrix.shape[0],
            max_new_tokens=self.augment.max_new_tokens,
        )
        context.progress.message(
            f"Documents are cut at {template.document_budget} tokens in the prompt"
            if template.document_budget is not None
            else f"Documents are cut at {self.prompt.max_document_words} words in the prompt"
        )
        return PromptedGenerator(
            model,
            template,
            soft_prompt,
            examples,
            self.augment,
            seed=self.seed,
            progress=context.progress,
        )

    def _summary(self, output: Output, documents: int) -> dict[str, int]:
        rows = empty = cut = retried = 0
        for _, row in read_jsonl(output.path("weak_queries.jsonl")):
            rows += 1
            empty += not row["text"]
            cut += row["cut_tokens"] > 0
            retried += row["attempts"] > 1
        return {
            "documents": documents,
            "rows": rows,
            "empty": empty,
            "retried": retried,
            "documents_cut": cut,
        }
