"""Step ``augment``: the language model writes queries for the unlabelled documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sptar.blocks import Block, JsonlBlocks
from sptar.config import AugmentConfig, LanguageModelConfig, PromptConfig, result_settings
from sptar.executors.local import Worker
from sptar.io import read_jsonl
from sptar.steps.base import Context, Output, Step
from sptar.steps.prompts import labelled_queries, prompt_template
from sptar.steps.resources import open_collection, open_split
from sptar.steps.tune import prompted_model
from sptar.steps.workers import run_blocks
from sptar.types import Generator, Pair
from sptar.workspace import Artefact

if TYPE_CHECKING:
    from sptar.llm.hosted.answer_log import AnswerLog
    from sptar.llm.loading import LanguageModel
    from sptar.llm.soft_prompt import SoftPrompt
    from sptar.llm.template import PromptTemplate

__all__ = ["AugmentStep"]


@dataclass(frozen=True, kw_only=True)
class AugmentStep(Step):
    """Writes exactly n rows for each document, block by block."""

    name: ClassVar[str] = "augment"
    version: ClassVar[int] = 2
    collection: Step
    split: Step
    tune: Step | None
    select: Step
    llm: LanguageModelConfig
    llm_identity: str
    prompt: PromptConfig
    style: str
    augment: AugmentConfig
    seed: int

    @property
    def settings(self) -> dict[str, Any]:
        """The model, the prompt's wording, decoding, and the seed."""
        settings = {
            "llm": self.llm_identity,
            "dtype": self.llm.dtype,
            "prompt": result_settings(self.prompt),
            "style": self.style,
            "augment": result_settings(self.augment),
            "seed": self.seed,
        }
        if self.llm.backend != "transformers":
            # Another engine rounds and samples in its own way.
            settings["engine"] = [self.llm.backend, self.llm.interface]
        return settings

    @property
    def outside(self) -> Sequence[str]:
        """The model, which a hosted one is not."""
        return () if self.llm.backend == "openai" else (self.llm.name,)

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Generate the missing blocks and join all of them."""
        positions = open_split(inputs, context).augment
        blocks = JsonlBlocks.open(
            output.unfinished / "blocks",
            items=len(positions),
            block_size=self.augment.block_size,
            rows_per_item=self.augment.queries_per_document,
        )
        run_blocks(self, blocks.missing(), output, inputs, context, "Writing weak queries", "docs")
        blocks.join(output.path("weak_queries.jsonl"))
        summary, refusals = self._summary(output, len(positions))
        if summary["unfinished"]:
            context.progress.message(
                f"{summary['unfinished']:,} of {summary['rows']:,} weak queries ran into the limit "
                "of new tokens before their end (augment.max_new_tokens)"
            )
        if summary["documents_cut"]:
            context.progress.message(
                f"{summary['documents_cut']:,} of {len(positions):,} documents were longer than "
                "the prompt has room for and were cut"
            )
        if refusals:
            common, times = refusals.most_common(1)[0]
            context.progress.message(
                f"The server wrote nothing for {summary['refused']:,} of {summary['rows']:,} rows; "
                f"{times:,} times it said: {common}"
            )
        return summary

    def worker(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Worker:
        """Writes the weak queries of a block of documents."""
        from sptar.llm.hosted.answer_log import AnswerLog
        from sptar.weak.augment import (
            WeakQueryIds,
            augment_block,
            choose_prefix,
            weak_query_to_row,
        )

        collection = open_collection(inputs, context)
        positions = open_split(inputs, context).augment
        blocks = JsonlBlocks.open(
            output.unfinished / "blocks",
            items=len(positions),
            block_size=self.augment.block_size,
            rows_per_item=self.augment.queries_per_document,
        )
        log = AnswerLog()
        generator = self.generator(inputs, context, log)
        new_ids = WeakQueryIds(choose_prefix(collection.queries))

        def work(block: Block) -> None:
            documents = [collection.corpus[int(p)] for p in positions[block.start : block.stop]]
            if self.llm.backend == "transformers":
                rows = augment_block(documents, generator, self.augment, new_ids)
                blocks.write(block, map(weak_query_to_row, rows))
                return
            # A server's answers are kept one by one until their block is whole.
            answers = output.unfinished / "answers" / f"block-{block.number:06d}.jsonl"
            with log.open(answers):
                rows = augment_block(documents, generator, self.augment, new_ids)
                blocks.write(block, map(weak_query_to_row, rows))
            answers.unlink()

        return work

    def generator(
        self, inputs: Mapping[str, Artefact], context: Context, log: AnswerLog | None = None
    ) -> Generator:
        """The generator of this step: engine, prompt and chosen examples.

        A server's answers are kept in ``log`` as they come.
        """
        from sptar.weak.select import load_selection

        examples = load_selection(inputs["select"].path("selection.json")).examples
        if self.llm.backend == "openai":
            from sptar.llm.query_limits import hosted_new_tokens

            labelled = labelled_queries(inputs, context)
            new_tokens = hosted_new_tokens(self.augment.max_new_tokens, labelled)
            return self._hosted(examples, self._writing(new_tokens), context, log)
        model, soft_prompt = prompted_model(self.llm, inputs.get("tune"), context)
        template = self.template(model, soft_prompt, inputs, context)
        if self.llm.backend == "vllm":
            return self._served(model, template, soft_prompt, examples, context, log)
        context.progress.message(
            f"A weak query may have {template.max_new_tokens} tokens, a labelled one in the prompt "
            f"{template.max_query_tokens}"
        )
        from sptar.llm.engine.generation import PromptedGenerator

        return PromptedGenerator(
            model,
            template,
            soft_prompt,
            examples,
            self.augment,
            seed=self.seed,
            progress=context.progress,
        )

    def template(
        self,
        model: LanguageModel,
        soft_prompt: SoftPrompt | None,
        inputs: Mapping[str, Artefact],
        context: Context,
    ) -> PromptTemplate:
        """The prompt's ids for this step's model."""
        return prompt_template(
            model,
            self.prompt,
            inputs,
            context,
            virtual_tokens=0 if soft_prompt is None else soft_prompt.virtual_tokens,
            max_new_tokens=self.augment.max_new_tokens,
            style=self.style,
        )

    def _writing(self, new_tokens: int) -> AugmentConfig:
        """How to write, with a number where the config left it to the labels."""
        return self.augment.model_copy(update={"max_new_tokens": new_tokens})

    def _hosted(
        self,
        examples: Sequence[Pair],
        writing: AugmentConfig,
        context: Context,
        log: AnswerLog | None,
    ) -> Generator:
        from sptar.llm.hosted.generators import HardPromptGenerator, completions_client

        return HardPromptGenerator(
            completions_client(self.llm, self.llm.served_name or self.llm.name, log),
            self.prompt,
            self.style,
            examples,
            writing,
            self.seed,
            answer_only=self.llm.interface == "chat",
            progress=context.progress,
        )

    def _served(
        self,
        model: LanguageModel,
        template: PromptTemplate,
        soft_prompt: SoftPrompt | None,
        examples: Sequence[Pair],
        context: Context,
        log: AnswerLog | None,
    ) -> Generator:
        from sptar.llm.hosted.generators import SoftPromptServerGenerator, completions_client

        if soft_prompt is None:
            # Without virtual tokens every prompt is text that any server can be given.
            return self._hosted(examples, self._writing(template.max_new_tokens), context, log)
        name = self.llm.served_name or self.llm.export or self.llm.name
        return SoftPromptServerGenerator(
            completions_client(self.llm, name, log),
            model,
            template,
            soft_prompt,
            examples,
            self._writing(template.max_new_tokens),
            self.seed,
            self.llm.export,
            context.progress,
        )

    def _summary(self, output: Output, documents: int) -> tuple[dict[str, int], Counter[str]]:
        """Counts of rows, and the reasons of those that a server refused."""
        rows = empty = retried = unfinished = 0
        cut: set[str] = set()
        refusals: Counter[str] = Counter()
        for _, row in read_jsonl(output.path("weak_queries.jsonl")):
            rows += 1
            empty += not row["text"]
            if row["cut_tokens"] > 0:
                cut.add(row["doc_id"])
            retried += row["attempts"] > 1
            unfinished += not row.get("finished", True)
            if row.get("refusal") is not None:
                refusals[row["refusal"]] += 1
        summary = {
            "documents": documents,
            "rows": rows,
            "empty": empty,
            "retried": retried,
            "documents_cut": len(cut),
            "unfinished": unfinished,
        }
        if refusals:
            summary["refused"] = refusals.total()
        return summary, refusals
