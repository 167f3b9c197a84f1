"""What a run leaves for other programs beside its page: runs, judgements, models, vectors.

Models and vectors stay where they were made; here are links to them, under the systems' names.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sptar.data.collection import Collection
from sptar.evaluation.evaluate import Scores
from sptar.evaluation.measures import Measure
from sptar.evaluation.systems import method_title
from sptar.io import atomic_path, atomic_write_text
from sptar.model_names import licence_of, public_name
from sptar.packaged import name_of
from sptar.pipeline import RunRecord
from sptar.report.reader import RunReader, trained_retriever
from sptar.retrieval.specs import RETRIEVERS
from sptar.trec import read_run, write_run, write_trec_qrels
from sptar.workspace import Artefact

__all__ = ["write_run_files"]

_LANGUAGES = {
    "arabic": "ar",
    "armenian": "hy",
    "basque": "eu",
    "catalan": "ca",
    "danish": "da",
    "dutch": "nl",
    "english": "en",
    "finnish": "fi",
    "french": "fr",
    "german": "de",
    "greek": "el",
    "hindi": "hi",
    "hungarian": "hu",
    "indonesian": "id",
    "irish": "ga",
    "italian": "it",
    "lithuanian": "lt",
    "nepali": "ne",
    "norwegian": "no",
    "portuguese": "pt",
    "romanian": "ro",
    "russian": "ru",
    "serbian": "sr",
    "spanish": "es",
    "swedish": "sv",
    "tamil": "ta",
    "turkish": "tr",
    "yiddish": "yi",
}
"""Name of a stemmer → code of its language."""
_METRICS = {"nDCG": "ndcg", "RR": "mrr", "R": "recall", "AP": "map", "P": "precision"}
_RUN_STEPS = ("fuse", "rerank", "search", "bm25_search")
_CLASSES = {
    "bi_encoder": "SentenceTransformer",
    "late_interaction": "MultiVectorEncoder",
    "sparse": "SparseEncoder",
    "cross_encoder": "CrossEncoder",
}


def write_run_files(
    reader: RunReader,
    record: RunRecord,
    scores: Mapping[str, Scores],
    collection: Collection,
    folder: Path,
) -> None:
    """Write them into a run's folder; what an earlier report left there is replaced."""
    for name in ("retrievers", "vectors"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for system in reader.systems:
        step = next((name for name in _RUN_STEPS if reader.has(system, name)), None)
        if step is not None:
            run = read_run(reader.get(system, step).path("run.trec.gz"))
            write_run(folder / f"{_file_name(system)}.trec.gz", run, system)
    own = scores[reader.systems[0]]
    write_trec_qrels(folder / "test.qrels", _judgements(own, collection))
    linked = _link_retrievers(reader, record, scores, folder)
    encoded = _link_vectors(reader, collection, folder)
    _read_me(reader, linked, own.relevance_level, encoded, folder)


def _file_name(system: str) -> str:
    """A system as the name of a file.

    >>> _file_name("sptar@k=30/bm25+dpr")
    'sptar@k=30--bm25+dpr'
    """
    return system.replace("/", "--")


def _judgements(scores: Scores, collection: Collection) -> dict[str, dict[str, int]]:
    """The grades that the page's figures come from, for the queries that they go over."""
    judged = collection.judgements(scores.query_ids)
    return {
        query_id: {
            doc_id: max(int(grade), 0)
            for doc_id, grade in sorted(judged.get(query_id, {}).items())
            if collection.separate_ids or doc_id != query_id
        }
        for query_id in scores.query_ids
    }


def _link(target: Path, link: Path) -> bool:
    """A relative link; false on a file system without links."""
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        link.symlink_to(Path(os.path.relpath(target, link.parent)), target.is_dir())
    except OSError:
        return False
    return True


def _trained(reader: RunReader, system: str) -> Artefact | None:
    step = next((name for name in ("choose", "train") if reader.has(system, name)), None)
    return None if step is None else reader.get(system, step)


def _link_retrievers(
    reader: RunReader, record: RunRecord, scores: Mapping[str, Scores], folder: Path
) -> list[str]:
    """A folder for each system: links to its model's files, and a card with its test scores.

    Returns:
        The library's classes that load them.
    """
    classes: list[str] = []
    for system in reader.systems:
        trained = _trained(reader, system)
        model = None if trained is None else trained.folder / "model"
        if trained is None or model is None or not model.is_dir():
            continue
        place = folder / "retrievers" / system
        others = [path for path in sorted(model.iterdir()) if path.name != "README.md"]
        if not all(_link(path, place / path.name) for path in others):
            shutil.rmtree(place)
            return classes
        card = model / "README.md"
        if card.is_file():
            text = _card(card.read_text("utf-8"), reader, record, system, trained, scores[system])
            atomic_write_text(place / "README.md", text)
        row = RETRIEVERS.get(trained_retriever(trained) or record.retriever(system) or "")
        if row is not None:
            classes.append(_CLASSES[row.family])
    return list(dict.fromkeys(classes))


def _card(
    text: str,
    reader: RunReader,
    record: RunRecord,
    system: str,
    trained: Artefact,
    scores: Scores,
) -> str:
    """The card of a training with what is known after the test, in the hub's own form."""
    from huggingface_hub import EvalResult, ModelCard

    card = ModelCard(text, ignore_metadata_errors=True)
    # Typed as data of any card; a model's has these fields.
    data: Any = card.data
    retriever = record.retriever(system) or ""
    recipe = reader.recipe(trained_retriever(trained) or retriever)
    if recipe is not None:
        starts = [recipe.start, *([recipe.query_start] if recipe.query_start else [])]
        names = list(dict.fromkeys(map(public_name, starts)))
        data.base_model = names[0] if len(names) == 1 else names
        data.license = licence_of(recipe.start) or "unknown"
    language = _LANGUAGES.get(str(record.config["filter"]["language"]))
    if language is not None:
        data.language = language
    # What a fusion scores is not this model's alone.
    if "+" not in retriever:
        title = _collection_title(record)
        data.model_name = f"{record.name}-{_file_name(system)}"
        data.eval_results = [
            EvalResult(
                task_type="information-retrieval",
                task_name="Information Retrieval",
                dataset_type=re.sub(r"[^\w./-]+", "-", title.removeprefix("hf:")),
                dataset_name=title,
                dataset_split="test",
                metric_type=_metric_type(measure),
                metric_name=str(measure),
                metric_value=value,
            )
            for measure, value in scores.means().items()
        ]
        card.text = f"{card.text.rstrip()}\n\n{_test_section(system, title, scores)}"
    return str(card)


def _collection_title(record: RunRecord) -> str:
    data = record.config["data"]
    source = name_of(str(data.get("source") or data.get("corpus")))
    if source.startswith(("hf:", "ir:", "starter:")):
        return source
    return Path(source).name if data.get("source") else Path(source).parent.name or "collection"


def _metric_type(measure: Measure) -> str:
    """The hub's word for a measure.

    >>> from sptar.evaluation.measures import parse_measure
    >>> [_metric_type(parse_measure(name)) for name in ("nDCG@10", "RR@10", "R@100", "RR")]
    ['ndcg_at_10', 'mrr_at_10', 'recall_at_100', 'mrr']
    """
    word = _METRICS.get(measure.name, measure.name.lower())
    return word if measure.cutoff is None else f"{word}_at_{measure.cutoff}"


def _test_section(system: str, title: str, scores: Scores) -> str:
    return "\n".join(
        [
            "## Test results",
            f"{method_title(system)} on {len(scores.query_ids):,} test queries of {title}, over "
            "the whole collection; test was read once, after training.",
            "",
            "| measure | mean |",
            "| --- | --- |",
            *(f"| {measure} | {value:.4f} |" for measure, value in scores.means().items()),
            "",
        ]
    )


def _link_vectors(reader: RunReader, collection: Collection, folder: Path) -> bool:
    """A link to the vectors of each system that has some, and the ids of their rows."""
    found = False
    for system in reader.systems:
        if not reader.has(system, "encode"):
            continue
        vectors = reader.get(system, "encode").folder / "vectors"
        if vectors.is_dir():
            found = _link(vectors, folder / "vectors" / system) or found
    if found:
        with (
            atomic_path(folder / "vectors" / "doc_ids.txt") as temporary,
            temporary.open("w", encoding="utf-8") as stream,
        ):
            for position in range(len(collection.corpus)):
                stream.write(f"{collection.corpus.doc_id(position)}\n")
    return found


def _read_me(
    reader: RunReader, classes: list[str], level: int, encoded: bool, folder: Path
) -> None:
    first = _file_name(reader.systems[0])
    grade = f" -l {level}" if level > 1 else ""
    rows = [
        f"Runs: gunzip -c {first}.trec.gz > run && trec_eval -c{grade} -m ndcg_cut.10 test.qrels "
        f"run    (or: ir_measures test.qrels {first}.trec.gz nDCG@10)",
    ]
    if classes:
        rows.append(
            f"Models: sentence_transformers.{' or .'.join(classes)}"
            '("retrievers/METHOD")    (its README.md says how; copy it elsewhere with cp -rL)'
        )
    if encoded:
        rows.append(
            'Vectors: numpy.concatenate([numpy.load(p) for p in sorted(glob("vectors/METHOD/'
            'block-*.npy"))])    (row i is document i of vectors/doc_ids.txt; several vectors a '
            "document, or sparse ones, lie in block-*.safetensors)"
        )
    atomic_write_text(folder / "README.txt", "\n".join(rows) + "\n")
