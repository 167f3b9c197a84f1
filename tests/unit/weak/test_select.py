"""Candidate groups and the choice among them."""

from __future__ import annotations

import json
import math
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sptar.config import SelectConfig
from sptar.errors import ConfigError, DataError, ModelError
from sptar.progress import RecordedProgress
from sptar.types import Document, Pair, Query, QueryLoss
from sptar.weak.select import (
    SelectionRow,
    candidate_groups,
    load_selection,
    save_selection,
    select_examples,
)


def pairs_of(*query_numbers):
    """One pair for each number; equal numbers are several positives of one query."""
    return [
        Pair(Query(f"q{query}", f"query {query}"), Document(f"d{place}", f"text {place}", "Title"))
        for place, query in enumerate(query_numbers)
    ]


class TableScorer:
    """A group's loss is read from a table by the positions of its pairs."""

    def __init__(self, pairs, losses, default=5.0):
        self.position = {pair: place for place, pair in enumerate(pairs)}
        self.losses = losses
        self.default = default
        self.asked = []

    def query_losses(self, examples, pairs):
        group = tuple(self.position[pair] for pair in examples)
        self.asked.append(group)
        value = self.losses.get(group, self.default)
        # Two pairs of different length with the same mean: the group's loss is that mean.
        return [QueryLoss(value * (1 + place), 1 + place) for place in range(len(pairs))]


EVALUATION = pairs_of(90, 91)


class TestCandidateGroups:
    def test_no_examples_is_one_empty_group(self):
        assert candidate_groups(pairs_of(1, 2), 0, "all", 1) == [()]
        assert candidate_groups(pairs_of(1, 2), 0, 7, 1) == [()]

    def test_all_single_pairs_with_every_positive(self):
        assert candidate_groups(pairs_of(1, 1, 2), 1, "all", 1) == [(0,), (1,), (2,)]
        assert candidate_groups(pairs_of(1, 1, 2), 1, 3, 1) == [(0,), (1,), (2,)]

    def test_a_sample_of_single_pairs(self):
        pairs = pairs_of(*range(50))
        sample = candidate_groups(pairs, 1, 10, 1)
        assert len(set(sample)) == 10
        assert sample == candidate_groups(pairs, 1, 10, 1)
        assert sample != candidate_groups(pairs, 1, 10, 2)

    @settings(deadline=None, max_examples=60)
    @given(
        st.lists(st.integers(0, 4), min_size=2, max_size=7),
        st.integers(2, 3),
        st.integers(1, 40),
        st.integers(0, 5),
    )
    def test_groups_are_distinct_and_their_queries_too(self, numbers, examples, groups, seed):
        pairs = pairs_of(*numbers)
        if len(set(numbers)) < examples:
            with pytest.raises(ConfigError, match="distinct queries"):
                candidate_groups(pairs, examples, groups, seed)
            return
        possible = {
            group
            for group in permutations(range(len(pairs)), examples)
            if len({numbers[place] for place in group}) == examples
        }
        found = candidate_groups(pairs, examples, groups, seed)
        assert len(found) == len(set(found)) == min(groups, len(possible))
        assert set(found) <= possible
        assert found == candidate_groups(pairs, examples, groups, seed)

    def test_both_orders_and_all_pairs_come_up(self):
        found = candidate_groups(pairs_of(*range(6)), 2, 12, 3)
        assert {place for group in found for place in group} == set(range(6))
        assert any(first > second for first, second in found)
        assert any(first < second for first, second in found)

    def test_all_means_single_pairs_only(self):
        with pytest.raises(ConfigError, match=r"select\.groups"):
            candidate_groups(pairs_of(1, 2, 3), 2, "all", 1)


class TestSelectExamples:
    pairs = pairs_of(1, 2, 3, 4)
    losses = {(0,): 2.0, (1,): 1.0, (2,): 3.0, (3,): 1.0}  # noqa: RUF012

    def select(self, choice="best", **more):
        scorer = TableScorer(self.pairs, self.losses)
        settings_ = SelectConfig(choice=choice)
        return scorer, select_examples(scorer, self.pairs, EVALUATION, settings_, 1, 5, **more)

    def test_best_to_worst_with_ties_in_candidate_order(self):
        scorer, selection = self.select()
        assert [(row.pair_indices, row.loss) for row in selection.groups] == [
            ((1,), 1.0),
            ((3,), 1.0),
            ((0,), 2.0),
            ((2,), 3.0),
        ]
        assert selection.chosen == selection.best == SelectionRow((1,), 1.0)
        assert selection.worst == SelectionRow((2,), 3.0)
        assert selection.examples == [self.pairs[1]]
        assert scorer.asked == [(0,), (1,), (2,), (3,)]

    def test_worst_for_the_ablation(self):
        _, selection = self.select("worst")
        assert selection.chosen == selection.worst
        assert selection.examples == [self.pairs[2]]

    def test_first_scores_nothing(self):
        scorer, selection = self.select("first")
        assert scorer.asked == []
        assert selection.groups == (SelectionRow((0,), None),)
        assert selection.chosen == SelectionRow((0,), None)

    def test_first_of_sampled_groups_is_the_first_candidate(self):
        config = SelectConfig(groups=4, choice="first")
        selection = select_examples(None, self.pairs, [], config, 2, 5)
        assert selection.chosen.pair_indices == candidate_groups(self.pairs, 2, 4, 5)[0]

    def test_order_of_a_group_reaches_the_prompt(self):
        scorer = TableScorer(self.pairs, {(2, 0): 0.5})
        config = SelectConfig(groups=100)
        selection = select_examples(scorer, self.pairs, EVALUATION, config, 2, 5)
        assert len(selection.groups) == 12
        assert selection.examples == [self.pairs[2], self.pairs[0]]

    def test_no_examples_is_scored_too(self):
        scorer = TableScorer(self.pairs, {(): 4.25})
        selection = select_examples(scorer, self.pairs, EVALUATION, SelectConfig(), 0, 5)
        assert selection.chosen == SelectionRow((), 4.25)
        assert selection.examples == []

    def test_loss_is_the_mean_over_pairs_of_token_means(self):
        class Uneven:
            def query_losses(self, examples, pairs):
                return [QueryLoss(6.0, 3), QueryLoss(1.0, 1)]

        selection = select_examples(Uneven(), self.pairs[:1], EVALUATION, SelectConfig(), 1, 5)
        assert selection.best.loss == 1.5

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_losses_that_are_no_numbers_are_refused(self, bad):
        scorer = TableScorer(self.pairs, {(2,): bad})
        with pytest.raises(ModelError, match="q3/d2"):
            select_examples(scorer, self.pairs, EVALUATION, SelectConfig(), 1, 5)

    def test_resumed_equals_undisturbed(self):
        _, undisturbed = self.select()
        kept: dict[tuple[int, ...], float] = {}

        class KilledError(Exception):
            pass

        def keep(row):
            kept[row.pair_indices] = row.loss
            if len(kept) == 2:
                raise KilledError

        with pytest.raises(KilledError):
            self.select(on_scored=keep)
        newly = []
        scorer, resumed = self.select(done=kept, on_scored=newly.append)
        assert resumed == undisturbed
        assert scorer.asked == [(2,), (3,)]
        assert [row.pair_indices for row in newly] == [(2,), (3,)]

    def test_progress(self):
        progress = RecordedProgress()
        self.select(progress=progress)
        assert progress.started[0][1] == 4
        assert (progress.advanced, progress.finished) == (4, 1)

    def test_nothing_to_score_on(self):
        with pytest.raises(ConfigError, match="evaluation pair"):
            select_examples(None, self.pairs, [], SelectConfig(), 1, 5)


class TestFiles:
    def test_round_trip_with_ids_and_texts(self, tmp_path):
        pairs = pairs_of(1, 1, 2)
        scorer = TableScorer(pairs, {(0, 2): 0.123456})
        selection = select_examples(scorer, pairs, EVALUATION, SelectConfig(groups=9), 2, 5)
        path = tmp_path / "selection.json"
        save_selection(path, selection)
        assert load_selection(path) == selection
        value = json.loads(path.read_text(encoding="utf-8"))
        assert value["examples"][0] == {
            "query_id": "q1",
            "query": "query 1",
            "doc_id": "d0",
            "title": "Title",
            "text": "text 0",
        }
        assert value["chosen"] == {"pair_indices": [0, 2], "loss": 0.123456}

    def test_unscored_round_trip(self, tmp_path):
        selection = select_examples(None, pairs_of(1), [], SelectConfig(choice="first"), 1, 5)
        save_selection(tmp_path / "s.json", selection)
        assert load_selection(tmp_path / "s.json") == selection

    @pytest.mark.parametrize(
        "text",
        [
            "[]",
            "{}",
            '{"pairs": [], "groups": [], "chosen": {"pair_indices": [], "loss": 1}}',
            '{"pairs": [], "groups": [{"pair_indices": [3], "loss": 1}], "chosen": {}}',
        ],
    )
    def test_a_damaged_file_is_named(self, tmp_path, text):
        path = tmp_path / "selection.json"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=r"selection\.json"):
            load_selection(path)
