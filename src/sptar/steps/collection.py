"""Step ``collection``: any source becomes one validated collection in BEIR layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sptar.config import DataConfig
from sptar.errors import DataError
from sptar.hub_commits import remembered_commit
from sptar.identity import HashCache, changed_meanwhile, hash_json
from sptar.steps.base import Context, Output, Step
from sptar.workspace import Artefact

__all__ = ["CollectionStep", "pinned_source", "source_identity"]


def pinned_source(data: DataConfig, hashes: HashCache) -> DataConfig:
    """The same source, a data set of the Hugging Face hub at the commit that it has now.

    Its judgements may be a data set of their own (NAME-qrels), with a commit of its own. Where
    the hub is out of reach, the commits that this work folder saw last are meant.
    """
    if data.source is None or not data.source.startswith("hf:") or Path(data.source[3:]).exists():
        return data
    file = None if hashes.path is None else hashes.path.with_name("commits.json")
    name = data.source[3:]
    commits = {
        "revision": remembered_commit(name, data.revision, file),
        "qrels_revision": remembered_commit(f"{name}-qrels", data.qrels_revision, file),
    }
    return data.model_copy(update={key: commit for key, commit in commits.items() if commit})


def source_identity(data: DataConfig, hashes: HashCache) -> str:
    """What the source holds: a hash over its files, or name and commit of a hub data set."""
    if data.source is not None and data.source.startswith(("hf:", "ir:")):
        local = Path(data.source[3:])
        if data.source.startswith("hf:") and local.exists():
            return "hf-folder:" + hashes.content(local)
        judgements = "" if data.qrels_revision is None else f"+{data.qrels_revision}"
        return f"{data.source}@{data.revision or 'default'}{judgements}"
    if data.source is not None:
        folder = Path(data.source)
        if not folder.is_dir():
            raise DataError(
                "there is no such folder.",
                path=folder,
                hint="`data.source` is a BEIR folder, `hf:NAME` or `ir:NAME`.",
            )
        files = [
            path
            for pattern in ("corpus.*", "queries.*", "qrels/*")
            for path in sorted(folder.glob(pattern))
            if path.is_file()
        ]
        return hash_json({path.relative_to(folder).as_posix(): hashes.file(path) for path in files})
    named = {"corpus": data.corpus, "queries": data.queries} | {
        f"qrels/{split}": path for split, path in data.qrels.items()
    }
    return hash_json(
        {
            role: [Path(path).suffix, hashes.content(path)]
            for role, path in named.items()
            if path is not None
        }
    )


@dataclass(frozen=True, kw_only=True)
class CollectionStep(Step):
    """Reads and validates the source line by line."""

    name: ClassVar[str] = "collection"
    data: DataConfig
    identity: str

    @property
    def settings(self) -> dict[str, Any]:
        """Content of the source, and how its rows are read."""
        return {
            **({} if self.data.shared_ids == "auto" else {"shared_ids": self.data.shared_ids}),
            "content": self.identity,
            "columns": dict(self.data.columns),
            "on_error": self.data.on_error,
        }

    def refuse_changes(self, hashes: HashCache) -> None:
        """Make sure that the source is still the one that the identity names.

        Raises:
            DataError: it has changed since it was hashed.
        """
        if source_identity(self.data, hashes) != self.identity:
            raise changed_meanwhile(self.data.source or self.data.corpus or "the collection")

    def build(self, output: Output, inputs: Mapping[str, Artefact], context: Context) -> Any:
        """Convert; the report of the validation becomes the summary."""
        from sptar.data.sources import convert

        report = convert(self.data, output.path("collection"), context.progress)
        return report.to_json()
