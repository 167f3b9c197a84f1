"""One training as a job that any process can do: from records in memory, or from files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sptar.config import TrainConfig
from sptar.io import read_json, read_jsonl, write_json, write_jsonl
from sptar.progress import silent
from sptar.types import Document, Pair, Progress, Qrels, Query, Run

if TYPE_CHECKING:
    from sptar.training.dev_set import DevSet
    from sptar.training.loop import TrainingData, TrainingResult

__all__ = ["TrainingJob", "read_result", "write_result"]

_SCORES = "teacher_scores.npy"


@dataclass(frozen=True)
class TrainingJob:
    """What is trained, from what, and where it goes.

    ``recipe`` is resolved; ``measure`` and ``relevance_level`` choose the checkpoint.
    """

    data: TrainingData
    dev: DevSet
    recipe: TrainConfig
    seed: int
    measure: str
    relevance_level: int
    output: Path
    checkpoints: Path

    def run(self, progress: Progress = silent) -> TrainingResult:
        """Train here; with other processes when this one has met them."""
        from sptar.evaluation.evaluate import evaluate
        from sptar.evaluation.measures import Measure
        from sptar.training.loop import train_retriever

        measure = Measure.parse(self.measure)

        def dev_score(run: Run, judged: Qrels) -> float:
            scores = evaluate(
                run,
                judged,
                [measure],
                self.relevance_level,
                separate_ids=not any(query.is_document for query in self.dev.queries),
            )
            return scores.mean(measure)

        return train_retriever(
            self.data,
            self.dev,
            self.recipe,
            self.seed,
            self.output,
            dev_score,
            self.checkpoints,
            progress,
            dev_measure=self.measure,
        )

    def write(self, folder: Path) -> None:
        """Write a folder from which :meth:`read` makes an equal job.

        A late-interaction teacher stays where it lies, and so do the models.
        """
        from sptar.training.teachers import LateTeacher, save_pair_scores

        folder.mkdir(parents=True, exist_ok=True)
        data, dev = self.data, self.dev
        numbers: dict[Document, int] = {}

        def number_of(document: Document) -> int:
            return numbers.setdefault(document, len(numbers))

        negatives = data.negatives or [()] * len(data.pairs)
        write_jsonl(
            folder / "pairs.jsonl",
            (
                {
                    "query": _row(pair.query),
                    "document": number_of(pair.document),
                    "negatives": [number_of(document) for document in own],
                }
                for pair, own in zip(data.pairs, negatives, strict=True)
            ),
        )
        dev_documents = [number_of(document) for document in dev.documents]
        write_jsonl(
            folder / "documents.jsonl",
            ({"row": [item.doc_id, item.text, item.title]} for item in numbers),
        )
        if data.teacher_scores is not None:
            save_pair_scores(folder / _SCORES, data.teacher_scores)
        teacher = data.in_batch_teacher
        if teacher is not None and not isinstance(teacher, LateTeacher):
            raise TypeError("other processes can open a saved late-interaction teacher only")
        write_json(
            folder / "job.json",
            {
                "recipe": self.recipe.model_dump(mode="json", exclude_unset=True),
                "seed": self.seed,
                "measure": self.measure,
                "relevance_level": self.relevance_level,
                "output": str(self.output.resolve()),
                "checkpoints": str(self.checkpoints.resolve()),
                "negatives": bool(data.negatives),
                "teacher_scores": data.teacher_scores is not None,
                "in_batch_teacher": None if teacher is None else str(teacher.folder.resolve()),
                "dev": {
                    "queries": [_row(query) for query in dev.queries],
                    "documents": dev_documents,
                    "qrels": dev.qrels,
                    "hard_negatives": dev.hard_negatives,
                    "random_negatives": dev.random_negatives,
                    "candidates": dev.candidates,
                },
            },
        )

    @classmethod
    def read(cls, folder: Path) -> TrainingJob:
        """The job that :meth:`write` wrote."""
        from sptar.training.dev_set import DevSet
        from sptar.training.loop import TrainingData
        from sptar.training.teachers import LateTeacher, load_pair_scores

        told = read_json(folder / "job.json")
        documents = [Document(*row["row"]) for _, row in read_jsonl(folder / "documents.jsonl")]
        pairs: list[Pair] = []
        negatives: list[Sequence[Document]] = []
        for _, row in read_jsonl(folder / "pairs.jsonl"):
            pairs.append(Pair(Query(*row["query"]), documents[row["document"]]))
            negatives.append([documents[number] for number in row["negatives"]])
        scores = load_pair_scores(folder / _SCORES, len(pairs)) if told["teacher_scores"] else None
        late = told["in_batch_teacher"]
        dev = told["dev"]
        dev["queries"] = [Query(*query) for query in dev["queries"]]
        dev["documents"] = [documents[number] for number in dev["documents"]]
        return cls(
            data=TrainingData(
                pairs,
                negatives if told["negatives"] else (),
                scores,
                None if late is None else LateTeacher.load(late),
            ),
            dev=DevSet(**dev),
            recipe=TrainConfig.model_validate(told["recipe"]),
            seed=told["seed"],
            measure=told["measure"],
            relevance_level=told["relevance_level"],
            output=Path(told["output"]),
            checkpoints=Path(told["checkpoints"]),
        )


def _row(query: Query) -> list[Any]:
    return [query.query_id, query.text, query.is_document]


def write_result(folder: Path, result: TrainingResult) -> None:
    """Leave what a training did in the job's folder."""
    write_json(folder / "result.json", asdict(result))


def read_result(folder: Path) -> TrainingResult:
    """What :func:`write_result` left."""
    from sptar.training.loop import EpochRecord, TrainingResult

    told: dict[str, Any] = read_json(folder / "result.json")
    history = tuple(EpochRecord(**record) for record in told.pop("history"))
    return TrainingResult(history=history, **told)
