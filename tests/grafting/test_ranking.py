"""Ranks, bands and agreement on scores whose truth is known."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from fovea.errors import FoveaError
from fovea.grafting.ranking import Bootstrap, compare, rank, tau

EPISODES = np.repeat(np.arange(12), 5)


def scores(mean: float, seeds: int = 3, noise: float = 0.01, seed: int = 0) -> list[list[float]]:
    """Errors with an effect of the episode that all candidates share, far larger than their differences."""
    shared = np.random.default_rng(99).normal(0, 0.2, 12)[EPISODES]
    rng = np.random.default_rng(seed)
    return [list(mean + 1 + shared + rng.normal(0, noise, len(EPISODES))) for _ in range(seeds)]


def test_candidates_are_ordered_by_their_mean_and_the_spread_is_over_seeds():
    runs = {"b": scores(0.5, seed=1), "a": scores(0.1, seed=2), "c": scores(0.9, seed=3)}
    rows = rank(runs, Bootstrap(EPISODES))
    assert [row["encoder"] for row in rows] == ["a", "b", "c"]
    means = np.mean(runs["b"], axis=1)
    assert rows[1]["mean"] == pytest.approx(means.mean(), abs=1e-5)
    assert rows[1]["spread"] == pytest.approx(means.std(ddof=1), abs=1e-5)
    assert rows[0]["first"] == 1.0


def test_pairing_tells_apart_what_episodes_blur():
    rows = rank({"a": scores(0.00, seed=1), "b": scores(0.05, seed=2)}, Bootstrap(EPISODES))
    first, second = rows
    assert second["interval"]["low"] < first["interval"]["high"]  # each alone is blurred
    assert not second["tied"]
    assert second["behind"]["low"] > 0


def test_what_a_seed_does_to_all_candidates_blurs_no_difference():
    """Runs of one seed share batches and noise, which can move all of them further than encoders differ."""

    def moved(mean: float, seed: int) -> list[list[float]]:
        return [
            [x + move for x in run] for run, move in zip(scores(mean, seed=seed), (0, 0.3, -0.2), strict=True)
        ]

    _, second = rank({"a": moved(0.00, 1), "b": moved(0.05, 2)}, Bootstrap(EPISODES))
    assert second["spread"] > 0.2
    assert not second["tied"]


def test_a_near_tie_is_a_near_tie():
    rows = rank({"a": scores(0.3, seed=1), "b": scores(0.301, noise=0.05, seed=2)}, Bootstrap(EPISODES))
    assert all(row["tied"] for row in rows)
    assert 0.02 < rows[1]["first"] < 0.98


def test_seeds_that_disagree_widen_the_band():
    sure = rank({"a": scores(0.1), "b": scores(0.2, seed=4)}, Bootstrap(EPISODES))
    apart = [scores(m, seeds=1, seed=i)[0] for i, m in enumerate((0.0, 0.2, 0.7))]
    unsure = rank({"a": scores(0.1), "b": apart}, Bootstrap(EPISODES))
    assert not sure[1]["tied"]
    assert unsure[1]["tied"]


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(150):
        runs = [list((rng.normal(0, 1, 30)[:, None] + rng.normal(0, 1, (30, 4))).ravel())]
        found = Bootstrap(np.repeat(np.arange(30), 4), draws=400).estimate(runs)
        inside += found.low <= 0 <= found.high
    assert 130 <= inside <= 150


def test_ratio_and_difference_are_paired():
    bootstrap, base = Bootstrap(EPISODES), scores(0.2, noise=0)
    doubled = [[2 * value for value in run] for run in base]
    found = bootstrap.ratio(doubled, base)
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))
    shifted = [[value - 0.1 for value in run] for run in base]
    assert bootstrap.difference(shifted, base).high == pytest.approx(-0.1)


def test_kendalls_tau_counts_pairs():
    first = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    assert tau(first, first) == 1
    assert tau(first, {name: -value for name, value in first.items()}) == -1
    other = {"a": 1.0, "b": 4.0, "c": 3.0, "d": 2.0}
    assert tau(first, other) == pytest.approx(kendalltau([1, 2, 3, 4], [1, 4, 3, 2]).statistic, abs=1e-4)
    assert tau({"a": 1.0}, {"a": 2.0}) is None


def test_a_winner_that_loses_on_the_large_backbone_does_not_transfer():
    small = rank({"a": scores(0.1), "b": scores(0.3, seed=5), "c": scores(0.5, seed=6)}, Bootstrap(EPISODES))
    large = rank({"a": scores(0.5), "b": scores(0.1, seed=5), "c": scores(0.3, seed=6)}, Bootstrap(EPISODES))
    found = compare(small, large)
    assert (found["small_winner"], found["large_winner"], found["rank_there"]) == ("a", "b", 3)
    assert not found["transfers"]
    assert found["large_band"] == ["b"]
    assert len(found["seeds"]) == 3
    assert not any(cell["same_winner"] or cell["same_order"] for cell in found["seeds"])
    assert compare(small, small)["transfers"]
    assert all(cell["same_order"] for cell in compare(small, small)["seeds"])


def test_scores_on_other_samples_are_refused():
    with pytest.raises(FoveaError, match="expected scores of 60 samples, got 3"):
        Bootstrap(EPISODES).means([[1.0, 2.0, 3.0]])
    with pytest.raises(FoveaError, match="at least 2 held-out episodes"):
        Bootstrap([4, 4, 4])
