"""Collections by name: `hf:NAME` (Hugging Face `datasets`) and `ir:NAME` (`ir_datasets`)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sptar.config import DataConfig
from sptar.data.origins import Origin, refuse_files
from sptar.data.tables import Table, table_of_values
from sptar.errors import DataError, MissingExtraError, SptarError

__all__ = ["hugging_face_origin", "ir_datasets_origin"]


def hugging_face_origin(config: DataConfig) -> Origin:
    """A data set with BEIR's configurations: ``corpus``, ``queries`` and judgements.

    The judgements are the configuration ``qrels`` or ``default`` of the same data set, or the data
    set ``NAME-qrels``. NAME may be a local folder. Rows are streamed.

    Raises:
        MissingExtraError: without the package ``datasets``.
        DataError: the data set cannot be loaded or has other configurations.
    """
    refuse_files(config, "queries", "qrels")
    assert config.source is not None
    name = config.source.removeprefix("hf:")
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "huggingface", f"`{config.source}`") from None

    def asked(action: Callable[[], Any], what: str) -> Any:
        try:
            return action()
        except SptarError:
            raise
        except Exception as error:  # the library lets errors of many kinds through
            first = str(error).strip().split("\n")[0] or type(error).__name__
            hint = "Check the name, the network, and whether access needs a login."
            if "script" in first.lower():
                hint = (
                    "This data set is a Python script, which `datasets` runs no more; many of "
                    "BEIR's are also there as files, under hf:mteb/NAME."
                )
            raise DataError(f"{what} cannot be loaded: {first}.", hint=hint) from error

    def configurations(of: str) -> list[str]:
        revision = config.revision if of == name else config.qrels_revision
        return list(
            asked(lambda: datasets.get_dataset_config_names(of, revision=revision), f"hf:{of}")
        )

    def load(of: str, configuration: str) -> Mapping[str, Any]:
        revision = config.revision if of == name else config.qrels_revision
        loaded: Mapping[str, Any] = asked(
            lambda: datasets.load_dataset(of, configuration, streaming=True, revision=revision),
            f"hf:{of} ({configuration})",
        )
        return loaded

    there = configurations(name)
    missing = [part for part in ("corpus", "queries") if part not in there]
    if missing:
        raise DataError(
            f"hf:{name} has no configuration '{missing[0]}'; it has: {', '.join(there)}.",
            hint="A data set of another shape is saved as files first, and named with "
            "`data.corpus`, `data.queries` and `data.qrels`.",
        )

    def rows(of: str, configuration: str, splits: Sequence[str] | None) -> Iterator[Any]:
        parts = load(of, configuration)
        for split in splits or list(parts):
            iterator = iter(parts[split])
            while (row := asked(lambda: next(iterator, None), f"hf:{of}")) is not None:  # noqa: B023
                yield row

    def opener(of: str, configuration: str, split: str | None = None) -> Callable[[], Table]:
        label = f"hf:{of}/{configuration}" + (f"/{split}" if split else "")
        splits = None if split is None else [split]
        return lambda: table_of_values(label, rows(of, configuration, splits))

    if "qrels" in there or "default" in there:
        of, configuration = name, "qrels" if "qrels" in there else "default"
    else:
        of = f"{name}-qrels"
        configuration = configurations(of)[0]
    return Origin(
        f"hf:{name}",
        opener(name, "corpus"),
        opener(name, "queries"),
        {split: opener(of, configuration, split) for split in load(of, configuration)},
        config.columns,
    )


def _document_row(document: Any) -> dict[str, Any]:
    text = getattr(document, "text", None)
    title = getattr(document, "title", "")
    if text is None:
        # Collections with other fields say themselves how to join them; the title is among them.
        text, title = document.default_text(), ""
    return {"doc_id": document.doc_id, "title": title, "text": text}


def _query_row(query: Any) -> dict[str, Any]:
    for field in ("text", "query", "title"):
        text = getattr(query, field, None)
        if text is not None:
            return {"query_id": query.query_id, "query": text}
    return {"query_id": query.query_id, "query": query.default_text()}


def _judgement_row(judgement: Any) -> dict[str, Any]:
    return {
        "query_id": judgement.query_id,
        "doc_id": judgement.doc_id,
        "score": judgement.relevance,
    }


_SPLITS = ("train", "dev", "validation", "test")


def ir_datasets_origin(config: DataConfig) -> Origin:
    """A data set of ``ir_datasets``.

    ``data.qrels`` may map split names to names of data sets with judgements; by default NAME/train,
    NAME/dev, NAME/validation and NAME/test are looked for, then NAME itself is the test split (or
    the split that its last part names).

    Raises:
        MissingExtraError: without the package ``ir_datasets``.
        DataError: there is no such data set, or it has no documents or no judgements.
    """
    refuse_files(config, "queries")
    assert config.source is not None
    name = config.source.removeprefix("ir:")
    try:
        library = importlib.import_module("ir_datasets")
    except ImportError:
        raise MissingExtraError("ir_datasets", "ir-datasets", f"`{config.source}`") from None

    def load(of: str) -> Any:
        try:
            return library.load(of)
        except KeyError:
            raise DataError(
                f"ir_datasets has no data set '{of}'.",
                hint="The names are listed at https://ir-datasets.com.",
            ) from None

    whole = load(name)
    if not whole.has_docs():
        raise DataError(f"ir:{name} has no documents.", hint="Name the data set that has them.")
    judged = {
        split: load(path.removeprefix("ir:")) for split, path in config.qrels.items()
    } or _judged_parts(name, whole, load)
    if not judged:
        raise DataError(
            f"ir:{name} has no judgements, and neither have {name}/train, /dev, /test.",
            hint="Name them: data.qrels: {train: NAME/OF/DATASET, test: NAME/OF/ANOTHER}",
        )

    def documents() -> Iterator[dict[str, Any]]:
        return map(_document_row, whole.docs_iter())

    def queries() -> Iterator[dict[str, Any]]:
        # Parts often list the same queries: an equal row is the same query, not a duplicate.
        seen: set[tuple[Any, Any]] = set()
        for part in (whole, *judged.values()):
            if not part.has_queries():
                continue
            for row in map(_query_row, part.queries_iter()):
                key = (row["query_id"], row["query"])
                if key not in seen:
                    seen.add(key)
                    yield row

    def judgements(split: str) -> Callable[[], Table]:
        return lambda: table_of_values(
            f"ir:{name}/qrels/{split}", map(_judgement_row, judged[split].qrels_iter())
        )

    return Origin(
        f"ir:{name}",
        lambda: table_of_values(f"ir:{name}/docs", documents()),
        lambda: table_of_values(f"ir:{name}/queries", queries()),
        {split: judgements(split) for split in judged},
        {},
    )


def _judged_parts(name: str, whole: Any, load: Callable[[str], Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for split in _SPLITS:
        try:
            part = load(f"{name}/{split}")
        except DataError:
            continue
        if part.has_qrels():
            found[split] = part
    if not found and whole.has_qrels():
        last = name.rsplit("/", 1)[-1]
        found[last if last in _SPLITS else "test"] = whole
    return found
