"""The graph of a run with several retrievers: which steps, which are shared, what a setting moves.

Nothing is made here: a step knows its fingerprint before anything has run.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from sptar.config import RunConfig, TrainConfig, parse_config
from sptar.errors import ConfigError
from sptar.graph.methods import build_graph
from sptar.graph.order import STEP_ORDER, title_of, users_of
from sptar.graph.runs import MethodGraph, RunGraph
from sptar.retrieval.specs import RETRIEVERS, recipe
from sptar.steps.base import Step
from sptar.steps.recipes import reading_settings, training_settings
from sptar.workspace import Workspace

TOY = str(resources.files("sptar.starter") / "toy_collection")
Build = Callable[..., RunGraph]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Folders that stand for models: the graph looks at their content alone."""
    for name in ("llm", "start", "other", "teacher"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(f'{{"name": "{name}"}}')
    return tmp_path


@pytest.fixture
def build(models: Path) -> Build:
    """The graph of a config; sections given replace single settings of the standard ones."""

    def make(**sections: Any) -> RunGraph:
        return build_graph(configured(models, **sections), Workspace(models / "work"))

    return make


def configured(models: Path, **sections: Any) -> RunConfig:
    values: dict[str, Any] = {
        "methods": ["bm25", "zero_shot", "no_augmentation", "inpars", "sptar"],
        "data": {"source": TOY},
        "llm": {"name": str(models / "llm")},
        "train": {"start": str(models / "start")},
    }
    for name, value in sections.items():
        if isinstance(value, dict) and isinstance(values.get(name), dict):
            values[name] = {**values[name], **value}
        else:
            values[name] = value
    return parse_config(values)


def of(graph: RunGraph, *names: str) -> list[Step]:
    return [step for step in graph.steps() if step.name in names]


def prints(graph: RunGraph, *names: str) -> set[tuple[str, str]]:
    wanted = names or STEP_ORDER
    return {(step.name, step.fingerprint) for step in graph.steps() if step.name in wanted}


def moved(before: RunGraph, after: RunGraph) -> set[str]:
    """Names of the steps that a change makes anew."""
    return {name for name, _ in prints(after) - prints(before)}


def own(graph: RunGraph, name: str) -> dict[str, str]:
    return {step: made.fingerprint for step, made in graph.method(name).own_steps().items()}


def test_one_retriever_keeps_the_names_of_the_methods(build: Build) -> None:
    plain = build()
    assert [graph.name for graph in plain.methods] == [
        "bm25",
        "zero_shot",
        "no_augmentation",
        "inpars",
        "sptar",
    ]
    assert [graph.retriever for graph in plain.methods] == [None, "dpr", "dpr", "dpr", "dpr"]
    assert prints(build(retrievers=["dpr"])) == prints(plain)
    assert prints(build(train={"retriever": "static"})) == prints(build(retrievers=["static"]))


def test_several_retrievers_name_their_methods(build: Build) -> None:
    graph = build(retrievers=["dpr", "colbert", "bm25+dpr"], methods=["bm25", "zero_shot", "sptar"])
    assert [(item.name, item.method, item.retriever) for item in graph.methods] == [
        ("bm25", "bm25", None),
        ("zero_shot/dpr", "zero_shot", "dpr"),
        ("sptar/dpr", "sptar", "dpr"),
        ("zero_shot/colbert", "zero_shot", "colbert"),
        ("sptar/colbert", "sptar", "colbert"),
        ("zero_shot/bm25+dpr", "zero_shot", "bm25+dpr"),
        ("sptar/bm25+dpr", "sptar", "bm25+dpr"),
    ]
    assert graph.compare is not None
    assert graph.compare.target == "sptar"
    assert len(of(graph, "augment", "tune")) == 2


def test_every_row_of_the_table_has_a_graph(build: Build) -> None:
    graph = build(retrievers=[*RETRIEVERS], methods=["zero_shot", "sptar"])
    assert {item.retriever for item in graph.methods} == set(RETRIEVERS)
    assert {step.name for step in graph.steps()} < set(STEP_ORDER)


def test_a_further_retriever_reuses_everything_upstream(build: Build) -> None:
    one = build(retrievers=["dpr"])
    more = build(retrievers=["dpr", "colbert", "bm25ce", "dpr+colbert"])
    assert prints(one) - prints(more) == prints(one, "compare")
    assert moved(one, more) == {
        "mine",
        "train",
        "encode",
        "search",
        "rerank",
        "fuse",
        "evaluate",
        "compare",
    }


def test_the_reranker_by_dpr_shares_dprs_training_and_vectors(build: Build) -> None:
    both = build(retrievers=["dpr", "bm25dpr"])
    assert prints(both, "train", "encode") == prints(build(retrievers=["dpr"]), "train", "encode")
    assert prints(build(retrievers=["bm25dpr"]), "train") == prints(both, "train")
    assert own(both, "sptar/bm25dpr")["train"] == own(both, "sptar/dpr")["train"]
    assert "rerank" in own(both, "sptar/bm25dpr")
    assert "search" not in own(both, "sptar/bm25dpr")


def test_own_teachers_are_trained_once_on_the_same_pairs(build: Build) -> None:
    alone = build(retrievers=["tas_b"], methods=["no_augmentation", "sptar"])
    assert len(of(alone, "train")) == 2 * 3
    assert len(of(alone, "teach")) == 2
    together = build(
        retrievers=["tas_b", "bm25ce", "colbert"], methods=["no_augmentation", "sptar"]
    )
    assert prints(together, "train") == prints(alone, "train")
    for graph, name in ((alone, "sptar"), (together, "sptar/tas_b")):
        student = graph.method(name).own_steps()["train"]
        assert student.settings["train"]["retriever"] == "tas_b"
    assert own(together, "sptar/bm25ce")["train"] != own(together, "sptar/tas_b")["train"]
    teachers = of(alone, "teach")[0].inputs
    assert teachers["cross"].settings["train"]["retriever"] == "bm25ce"
    assert teachers["late"].settings["train"]["retriever"] == "colbert"
    assert teachers["cross"].inputs["pairs"] is teachers["late"].inputs["pairs"]


def test_teachers_from_elsewhere_are_known_by_their_content(build: Build, models: Path) -> None:
    named = {"teacher": str(models / "teacher"), "in_batch_teacher": "none"}
    graph = build(retrievers=["tas_b"], methods=["sptar"], recipes={"tas_b": named})
    assert len(of(graph, "train")) == 1
    before = prints(graph, "teach")
    assert set(of(graph, "teach")[0].inputs) == {"collection", "pairs", "mine"}
    (models / "teacher" / "config.json").write_text("{}")
    again = build(retrievers=["tas_b"], methods=["sptar"], recipes={"tas_b": named})
    assert prints(again, "teach") != before
    late = {"teacher": str(models / "teacher"), "in_batch_teacher": str(models / "other")}
    both = build(retrievers=["tas_b"], methods=["sptar"], recipes={"tas_b": late})
    assert prints(both, "teach") != prints(again, "teach")
    with pytest.raises(Exception, match="no model folder '/no/teacher'"):
        build(
            retrievers=["tas_b"], methods=["sptar"], recipes={"tas_b": {"teacher": "/no/teacher"}}
        ).steps()


def test_negatives_from_the_start_encoder_share_its_vectors(build: Build) -> None:
    graph = build(retrievers=["dpr", "bm25ce"], train={"negatives": "dense"})
    untrained = own(graph, "zero_shot/dpr")["encode"]
    mines = of(graph, "mine")
    assert {step.inputs["encode"].fingerprint for step in mines} == {untrained}
    # A cross-encoder cannot search, so dpr's start finds its negatives; only their number differs.
    assert len(mines) == 3 * 2
    assert "bm25_index" not in mines[0].inputs
    assert "encode" not in of(build(train={"negatives": "bm25"}), "mine")[0].inputs


def test_each_step_comes_after_its_inputs_and_writing_before_training(build: Build) -> None:
    graph = build(
        retrievers=["tas_b", "dpr", "bm25+bm25ce"],
        train={"negatives": "dense"},
        filter={"k": "auto", "auto_k": [5, 10]},
    )
    steps = graph.steps()
    places = {(step.name, step.fingerprint): place for place, step in enumerate(steps)}
    assert len(places) == len(steps)
    for step in steps:
        for below in step.inputs.values():
            assert places[below.name, below.fingerprint] < places[step.name, step.fingerprint]
    names = [step.name for step in steps]
    writing = {"tune", "select", "augment"}
    last = max(place for place, name in enumerate(names) if name in writing)
    assert last < min(names.index("train"), names.index("encode"))
    assert {step.name for step in graph.steps(["augment"])} == {
        "collection",
        "split",
        *writing,
    }


def test_the_cutoff_is_chosen_for_each_retriever(build: Build) -> None:
    graph = build(
        retrievers=["dpr", "static", "bm25dpr"],
        methods=["bm25", "sptar"],
        filter={"k": "auto", "auto_k": [5, 10]},
    )
    assert len(of(graph, "choose")) == 2
    assert len(of(graph, "train")) == 4
    assert len(of(graph, "pairs")) == 2
    assert own(graph, "sptar/bm25dpr")["choose"] == own(graph, "sptar/dpr")["choose"]
    sweep = build(retrievers=["dpr", "static"], methods=["bm25", "sptar"], filter={"k": [5, 10]})
    assert [item.name for item in sweep.methods] == [
        "bm25",
        "sptar@k=5/dpr",
        "sptar@k=10/dpr",
        "sptar@k=5/static",
        "sptar@k=10/static",
    ]
    assert {item.method for item in sweep.methods} == {"bm25", "sptar"}


def test_untrained_rerankers_are_left_out_and_named(build: Build) -> None:
    graph = build(retrievers=["dpr", "bm25ce", "dpr+bm25ce"])
    assert set(graph.left_out) == {"zero_shot/bm25ce", "zero_shot/dpr+bm25ce"}
    assert not {item.name for item in graph.methods} & set(graph.left_out)
    assert not build(retrievers=["dpr"]).left_out
    with pytest.raises(ConfigError, match="nothing is left to run"):
        build(retrievers=["bm25ce"], methods=["zero_shot"])


def test_a_fusion_joins_the_runs_of_its_parts(build: Build) -> None:
    graph = build(retrievers=["dpr", "colbert", "dpr+colbert", "bm25+dpr"])
    fused = graph.method("sptar/dpr+colbert").evaluate.run
    assert fused.inputs["first"].fingerprint == own(graph, "sptar/dpr")["search"]
    assert fused.inputs["second"].fingerprint == own(graph, "sptar/colbert")["search"]
    lexical = graph.method("sptar/bm25+dpr").evaluate.run
    assert lexical.inputs["first"].fingerprint == own(graph, "bm25")["bm25_search"]
    # What its parts do differently is no step of the fusion's own; the weak queries are.
    assert not {"train", "encode", "search"} & set(own(graph, "sptar/dpr+colbert"))
    assert {"fuse", "evaluate", "augment", "filter", "pairs"} <= set(
        own(graph, "sptar/dpr+colbert")
    )
    assert own(graph, "sptar/bm25+dpr")["train"] == own(graph, "sptar/dpr")["train"]


SEVERAL = ["dpr", "colbert", "bm25ce", "bm25dpr", "bm25+dpr", "splade", "lora"]


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        ({"search": {"rerank_depth": 50}}, {"bm25_search", "rerank"}),
        ({"search": {"late_candidates": "bm25"}}, {"search"}),
        ({"search": {"late_candidate_depth": 9}}, set()),
        ({"search": {"fusion_k": 10}}, {"fuse"}),
        ({"search": {"fusion_weight": 0.3}}, set()),
        ({"search": {"fusion": "score"}}, {"fuse"}),
        ({"train": {"mine_depth": 7}}, set()),
        ({"train": {"negatives_per_pair": 2}}, {"mine", "train", "encode", "search", "rerank"}),
        ({"train": {"teacher": "elsewhere"}}, set()),
        ({"train": {"lora_rank": 4}}, {"train", "encode", "search"}),
        ({"train": {"query_sparsity": 1.0}}, {"train", "encode", "search"}),
        ({"train": {"encode_batch_size": 3, "processes": 2, "device": "cpu"}}, set()),
        (
            {"recipes": {"dpr": {"epochs": 2}}},
            {"train", "encode", "search", "rerank", "fuse"},
        ),
        ({"recipes": {"bm25ce": {"epochs": 2}}}, {"train", "rerank"}),
        ({"recipes": {"static": {"epochs": 2}}}, set()),
    ],
)
def test_a_setting_moves_only_what_it_changes(
    build: Build, change: dict[str, Any], steps: set[str]
) -> None:
    before = build(retrievers=SEVERAL, methods=["bm25", "zero_shot", "sptar"])
    after = build(retrievers=SEVERAL, methods=["bm25", "zero_shot", "sptar"], **change)
    assert moved(before, after) == (steps | {"evaluate", "compare"} if steps else set())


def test_settings_of_one_family_leave_the_others_alone(build: Build) -> None:
    before = build(retrievers=["lora", "dpr", "colbert"], methods=["sptar"])
    after = build(
        retrievers=["lora", "dpr", "colbert"],
        methods=["sptar"],
        train={"lora_alpha": 8.0, "token_dimension": 16},
    )
    assert own(before, "sptar/dpr") == own(after, "sptar/dpr")
    assert own(before, "sptar/lora") != own(after, "sptar/lora")
    assert own(before, "sptar/colbert") != own(after, "sptar/colbert")


def test_both_starts_of_two_towers_count(build: Build, models: Path) -> None:
    def graph(**settings: Any) -> RunGraph:
        return build(methods=["zero_shot", "sptar"], train={"towers": "separate", **settings})

    plain = graph()
    other = graph(query_start=str(models / "other"))
    assert moved(plain, other) >= {"train", "encode"}
    (models / "other" / "config.json").write_text("{}")
    assert moved(other, graph(query_start=str(models / "other"))) >= {"train", "encode"}


def test_artefacts_of_the_time_before_several_retrievers_are_still_found() -> None:
    settings = training_settings(recipe(TrainConfig(start="x"), "dpr"))
    assert set(settings) == {
        "retriever",
        "trust_remote_code",
        "pooling",
        "max_tokens",
        "query_prompt",
        "document_prompt",
        "scale",
        "batch_size",
        "epochs",
        "steps_per_epoch",
        "learning_rate",
        "warmup",
        "patience",
        "dev_negatives",
        "keep",
        "dtype",
    }


def test_a_method_run_alone_has_the_training_that_it_has_among_others(build: Build) -> None:
    """Its length follows from the split and the settings, not from what others kept."""
    together = prints(build(), "train")
    alone = [prints(build(methods=[name]), "train") for name in ("no_augmentation", "sptar")]
    assert all(len(found) == 1 and found < together for found in alone)


@pytest.mark.parametrize(("steps", "changes"), [("auto", True), (40, False), ("pass", False)])
def test_more_weak_queries_lengthen_an_epoch_only_where_it_is_not_set(
    build: Build, steps: str | int, changes: bool
) -> None:
    def graph(count: int) -> RunGraph:
        return build(
            methods=["no_augmentation"],
            train={"steps_per_epoch": steps},
            augment={"queries_per_document": count},
        )

    assert ("train" in moved(graph(1), graph(3))) == changes


def test_a_setting_that_a_row_never_reads_leaves_its_artefacts_alone() -> None:
    """A cross-encoder has no softmax over a batch and no pooling; a token table no pooling."""
    for row, settings in {
        "bm25ce": {"scale": 7.0, "pooling": "cls"},
        "colbert": {"pooling": "cls"},
        "splade": {"pooling": "cls"},
        "static": {"pooling": "cls"},
    }.items():
        plain = training_settings(recipe(TrainConfig(start="x"), row))
        assert training_settings(recipe(TrainConfig(start="x", **settings), row)) == plain
        # As they were written into the manifests of older artefacts.
        assert (plain["scale"], plain["pooling"]) == (
            (20.0, "mean") if row in ("bm25ce", "static") else (1.0, "mean")
        )
        assert reading_settings(recipe(TrainConfig(start="x", **settings), row)) == (
            reading_settings(recipe(TrainConfig(start="x"), row))
        )
    for row in ("dpr", "lora", "tas_b"):
        plain = training_settings(recipe(TrainConfig(start="x"), row))
        for other in ({"scale": 7.0}, {"pooling": "mean" if row == "tas_b" else "cls"}):
            assert training_settings(recipe(TrainConfig(start="x", **other), row)) != plain


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"retrievers": ["colbrt"]}, "retrievers: .*'colbrt'; did you mean 'colbert'"),
        ({"retrievers": ["bm25+dpt"]}, "no retriever 'dpt'; did you mean 'dpr'"),
        ({"train": {"retriever": "drp"}}, r"train\.retriever: .*'drp'; did you mean 'dpr'"),
        ({"recipes": {"colbret": {}}}, "recipes: .*'colbret'; did you mean 'colbert'"),
        ({"recipes": {"bm25+dpr": {}}}, "recipes: .*a fusion takes those of its parts"),
        ({"recipes": {"bm25dpr": {}}}, r"trains nothing of its own\. Set recipes\.dpr"),
        ({"recipes": {"dpr": {"epochs": 0}}}, r"recipes\.dpr: epochs"),
        ({"recipes": {"dpr": {"query_start": "x"}}}, "query_start.*towers: shared"),
        ({"retrievers": ["bm25ce"], "train": {"negatives": "none"}}, "learns from hard negatives"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    build: Build, sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**sections)


def test_the_methods_of_a_step_include_those_whose_student_it_teaches(build: Build) -> None:
    graph = build(retrievers=["tas_b", "dpr"], methods=["sptar"])

    def trainings(item: MethodGraph) -> list[str]:
        steps = item.steps(["train"])
        return sorted(str(step.settings["train"]["retriever"]) for step in steps)

    assert trainings(graph.method("sptar/tas_b")) == ["bm25ce", "colbert", "tas_b"]
    assert trainings(graph.method("sptar/dpr")) == ["dpr"]
    with pytest.raises(ConfigError, match="no method 'sptar'.*sptar/tas_b"):
        graph.method("sptar")


def test_steps_whose_blocks_other_processes_do_can_be_sent_there(build: Build) -> None:
    graph = build(retrievers=["tas_b", "bm25ce"], train={"negatives": "dense"})
    for step in of(graph, "mine", "teach", "encode", "rerank"):
        assert pickle.loads(pickle.dumps(step)).fingerprint == step.fingerprint


def test_a_progress_line_names_retriever_and_methods_and_no_hash(build: Build) -> None:
    graph = build(
        methods=["bm25", "zero_shot", "no_augmentation", "inpars", "sptar"],
        retrievers=["dpr", "bm25ce"],
    )
    steps = graph.steps()
    users = users_of(steps, {method.name: method.evaluate for method in graph.methods})

    def titles(name: str) -> set[str]:
        return {
            title_of(step, users.get((step.name, step.fingerprint), []), len(graph.methods))
            for step in steps
            if step.name == name
        }

    assert titles("collection") == {"collection"}
    assert titles("compare") == {"compare"}
    assert titles("augment") == {
        "augment (sptar/dpr, sptar/bm25ce)",
        "augment (inpars/dpr, inpars/bm25ce)",
    }
    assert titles("train") >= {"train dpr (sptar/dpr)", "train bm25ce (inpars/bm25ce)"}
    # BM25's run is what the cross-encoder reranks.
    assert titles("bm25_search") == {
        "bm25_search (bm25, no_augmentation/bm25ce, inpars/bm25ce and 1 more)"
    }
    hashes = {step.fingerprint for step in steps}
    assert not any(part in hashes for name in ("train", "tune") for part in titles(name))


def test_one_retriever_and_many_methods_are_told_in_short(build: Build) -> None:
    graph = build(methods=["bm25", "zero_shot", "no_augmentation", "inpars", "inpars_gbq", "sptar"])
    steps = graph.steps(["pairs", "split"])
    users = users_of(steps, {method.name: method.evaluate for method in graph.methods})
    (split,) = [step for step in steps if step.name == "split"]
    assert title_of(split, users[("split", split.fingerprint)], 6) == "split"
    assert title_of(split, users[("split", split.fingerprint)][1:], 6) == (
        "split (zero_shot, no_augmentation, inpars and 2 more)"
    )
