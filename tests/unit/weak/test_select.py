"""Candidate groups and the choice among them."""

from __future__ import annotations

import json
import math
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sptar.config import SelectConfig, parse_config, result_settings
from sptar.errors import ConfigError, DataError, ModelError
from sptar.progress import RecordedProgress
from sptar.types import Document, Pair, Query, QueryLoss
from sptar.weak.group_search import Round, search_rounds
from sptar.weak.select import (
    GroupLosses,
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


class KilledError(Exception):
    """Stands for a kill."""


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
        assert selection.chosen == selection.best == SelectionRow((1,), 1.0, 2)
        assert selection.worst == SelectionRow((2,), 3.0, 2)
        assert selection.exhaustive
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
        assert not selection.exhaustive

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
        assert selection.chosen == SelectionRow((), 4.25, 2)
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
        kept: list[GroupLosses] = []

        def keep(found):
            kept.append(found)
            if len(kept) == 2:
                raise KilledError

        with pytest.raises(KilledError):
            self.select(on_scored=keep)
        newly = []
        scorer, resumed = self.select(done=kept, on_scored=newly.append)
        assert resumed == undisturbed
        assert scorer.asked == [(2,), (3,)]
        assert [found.pair_indices for found in newly] == [(2,), (3,)]

    def test_progress(self):
        progress = RecordedProgress()
        self.select(progress=progress)
        assert progress.started == [("Selecting examples", 8, "losses")]
        assert (progress.advanced, progress.finished) == (8, 1)

    def test_nothing_to_score_on(self):
        with pytest.raises(ConfigError, match="evaluation pair"):
            select_examples(None, self.pairs, [], SelectConfig(), 1, 5)


class PairScorer:
    """The loss of a query depends on the group and on the pair: ``losses[group][pair]``."""

    def __init__(self, pairs, evaluation, losses):
        self.position = {pair: place for place, pair in enumerate(pairs)}
        self.column = {pair: place for place, pair in enumerate(evaluation)}
        self.losses = losses
        self.asked = []

    def query_losses(self, examples, pairs):
        (group,) = (self.position[pair] for pair in examples)
        columns = [self.column[pair] for pair in pairs]
        self.asked += [(group, column) for column in columns]
        return [QueryLoss(self.losses[group][column] * 3, 3) for column in columns]


def slow_halving(losses, order, first_pairs):
    """Successive halving as one would do it by hand: (group, loss, pairs) from best to worst."""
    alive, dropped, seen = list(range(len(losses))), [], 0

    def mean(group):
        return sum(losses[group][pair] for pair in order[:seen]) / seen

    while seen < len(order):
        alive = alive[: math.ceil(len(alive) / 2)] if seen else alive
        seen = min(len(order), 2 * seen if seen else first_pairs)
        seen = len(order) if len(alive) == 1 else seen
        alive.sort(key=lambda group: (round(mean(group), 6), group))
        worse = alive[math.ceil(len(alive) / 2) :] if seen < len(order) else []
        dropped = [(group, mean(group), seen) for group in worse] + dropped
    return [(group, mean(group), seen) for group in alive] + dropped


class TestHalving:
    @staticmethod
    def search(losses, halving_pairs, seed=3, **more):
        pairs = pairs_of(*range(len(losses)))
        evaluation = pairs_of(*range(100, 100 + len(losses[0])))
        scorer = PairScorer(pairs, evaluation, losses)
        config = SelectConfig(search="halving", halving_pairs=halving_pairs)
        return scorer, select_examples(scorer, pairs, evaluation, config, 1, seed, **more)

    def test_rounds(self):
        assert search_rounds("exhaustive", 5, 12, 4) == [Round(5, 0, 12)]
        # Five groups on 4 pairs, three on 8, and two on all 10: nothing is left to decide them.
        assert search_rounds("halving", 5, 10, 4) == [
            Round(5, 0, 4),
            Round(3, 4, 8),
            Round(2, 8, 10),
        ]
        # One group is left early: it is scored on all pairs at once.
        assert search_rounds("halving", 2, 50, 4) == [Round(2, 0, 4), Round(1, 4, 50)]
        assert search_rounds("halving", 3, 5, 16) == [Round(3, 0, 5)]
        assert search_rounds("halving", 1, 50, 4) == [Round(1, 0, 50)]

    @settings(deadline=None, max_examples=80)
    @given(st.data(), st.integers(1, 9), st.integers(1, 20), st.integers(1, 9), st.integers(0, 4))
    def test_equals_the_slow_way(self, data, groups, count, halving_pairs, seed):
        # Few different values, so that ties come up.
        losses = data.draw(
            st.lists(
                st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=count, max_size=count),
                min_size=groups,
                max_size=groups,
            )
        )
        scorer, selection = self.search(losses, halving_pairs, seed)
        # All groups meet the first pairs in the seeded order, so the best one shows all of it.
        best = selection.best.pair_indices[0]
        order = [pair for group, pair in scorer.asked if group == best]
        assert sorted(order) == list(range(count))
        expected = slow_halving(losses, order, halving_pairs)
        found = [(row.pair_indices[0], row.loss, row.pairs) for row in selection.groups]
        assert [(group, pairs) for group, _, pairs in found] == [
            (group, pairs) for group, _, pairs in expected
        ]
        assert [loss for _, loss, _ in found] == pytest.approx([e[1] for e in expected], abs=1e-6)
        assert selection.best.pairs == count
        # No loss is computed twice, and those that are kept are told apart.
        assert len(scorer.asked) == len(set(scorer.asked)) == sum(pairs for *_, pairs in found)

    losses = [[1.0 + 0.1 * group + 0.01 * pair for pair in range(20)] for group in range(8)]  # noqa: RUF012

    def test_finds_a_group_that_is_best_on_every_pair(self):
        scorer, selection = self.search(self.losses[::-1], 3)
        assert selection.chosen.pair_indices == (7,)
        assert selection.chosen.loss == pytest.approx(1.0 + 0.01 * 9.5)
        assert [row.pairs for row in selection.groups] == [20, 12, 6, 6, 3, 3, 3, 3]
        assert not selection.exhaustive
        assert len(scorer.asked) == 56

    def test_the_seed_names_the_pairs_that_come_first(self):
        orders = set()
        for seed in (1, 1, 2, 3):
            scorer, _ = self.search(self.losses, 3, seed)
            orders.add(tuple(pair for _, pair in scorer.asked[:3]))
        assert len(orders) == 3

    @pytest.mark.parametrize("after", [1, 7, 8, 9, 12, 14])
    def test_resumed_equals_undisturbed(self, after):
        whole, undisturbed = self.search(self.losses, 3)
        kept = []

        def keep(found):
            kept.append(found)
            if len(kept) == after:
                raise KilledError

        with pytest.raises(KilledError):
            self.search(self.losses, 3, on_scored=keep)
        progress = RecordedProgress()
        scorer, resumed = self.search(self.losses, 3, done=kept, progress=progress)
        assert resumed == undisturbed
        assert len(scorer.asked) + sum(len(found.losses) for found in kept) == len(whole.asked)
        # Losses that were there already count as done.
        assert progress.started == [("Selecting examples", 56, "losses")]
        assert progress.advanced == 56

    def test_round_trip_tells_how_many_pairs(self, tmp_path):
        _, selection = self.search(self.losses, 3)
        save_selection(tmp_path / "s.json", selection)
        assert load_selection(tmp_path / "s.json") == selection
        rows = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))["groups"]
        assert [row["pairs"] for row in rows] == [20, 12, 6, 6, 3, 3, 3, 3]

    def test_the_worst_group_needs_the_exhaustive_search(self):
        with pytest.raises(ConfigError, match=r"choice: worst.*search: halving"):
            parse_config(
                {
                    "data": {"source": "x"},
                    "llm": {"name": "m"},
                    "select": {"choice": "worst", "search": "halving"},
                }
            )

    def test_fingerprints_of_the_exhaustive_search_stay(self):
        assert result_settings(SelectConfig()) == {"groups": "all", "choice": "best"}


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
        assert value["chosen"] == {"pair_indices": [0, 2], "loss": 0.123456, "pairs": 2}

    def test_a_file_of_an_earlier_version(self, tmp_path):
        selection = select_examples(
            TableScorer(pairs_of(1, 2), {(0,): 2.0, (1,): 1.0}),
            pairs_of(1, 2),
            EVALUATION,
            SelectConfig(),
            1,
            5,
        )
        path = tmp_path / "selection.json"
        save_selection(path, selection)
        value = json.loads(path.read_text(encoding="utf-8"))
        for row in (value["chosen"], *value["groups"]):
            del row["pairs"]
        path.write_text(json.dumps(value), encoding="utf-8")
        read = load_selection(path)
        assert [row.loss for row in read.groups] == [1.0, 2.0]
        assert read.chosen.pairs is None
        assert read.exhaustive

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
