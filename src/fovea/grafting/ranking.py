"""Ranks of encoders, and how sure they are: hierarchical paired bootstrap, Kendall's tau, near-tie bands.

Samples of one episode resemble one another, so episodes are resampled, not samples. Runs with the same seed share
their batches, noise and times, so what a seed does to one candidate it does to all: seeds are resampled too, the same
ones for every candidate, as episodes are.

Shapes: E candidates, S seeds, K episodes, R bootstrap draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from fovea.errors import FoveaError

DRAWS, CONFIDENCE = 2000, 0.95
Record = Mapping[str, Any]
Runs = Sequence[Sequence[float]]  # one list of per-sample scores for each seed


@dataclass(frozen=True)
class Estimate:
    """A number and the interval it lies in with 95 % confidence."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """JSON form."""
        return {"value": round(self.value, 6), "low": round(self.low, 6), "high": round(self.high, 6)}


class Bootstrap:
    """Resampled means of any scores on the same held-out samples.

    Args:
        episodes: episode of every sample.
        draws: R.
        seed: of the resampling; the same episodes are drawn for everything that is asked of one object.

    Raises:
        FoveaError: fewer than two episodes.
    """

    def __init__(self, episodes: Sequence[int], *, draws: int = DRAWS, seed: int = 0) -> None:
        names, self.group = np.unique(np.asarray(episodes), return_inverse=True)
        if len(names) < 2:
            raise FoveaError(f"expected scores on at least 2 held-out episodes, got {len(names)}")
        self.count, self.draws, self.seed = len(names), draws, seed
        rng = np.random.default_rng([seed, 0])
        self.weights = rng.multinomial(self.count, np.full(self.count, 1 / self.count), size=draws)
        self.sizes = np.bincount(self.group, minlength=self.count)

    def means(self, runs: Runs) -> np.ndarray:
        """Mean over samples and seeds in every draw: (R,).

        Args:
            runs: (S, samples), from seed 0 on; candidates with the same S draw the same seeds.
        """
        scores = np.asarray(runs, float)
        if scores.shape[1] != len(self.group):
            raise FoveaError(f"expected scores of {len(self.group)} samples, got {scores.shape[1]}")
        sums = np.stack([np.bincount(self.group, one, minlength=self.count) for one in scores])
        by_seed = (self.weights @ sums.T) / (self.weights @ self.sizes)[:, None]
        rng = np.random.default_rng([self.seed, 1, len(scores)])
        drawn = rng.integers(len(scores), size=(self.draws, len(scores)))
        return np.take_along_axis(by_seed, drawn, axis=1).mean(1)

    def estimate(self, runs: Runs) -> Estimate:
        """Mean of some runs with its interval."""
        return interval(float(np.mean(runs)), self.means(runs))

    def ratio(self, runs: Runs, base: Runs) -> Estimate:
        """How much higher than `base` (0.5: 50 % higher), paired."""
        value = float(np.mean(runs) / np.mean(base) - 1)
        return interval(value, self.means(runs) / self.means(base) - 1)

    def difference(self, runs: Runs, base: Runs) -> Estimate:
        """Mean difference, paired."""
        value = float(np.mean(runs) - np.mean(base))
        return interval(value, self.means(runs) - self.means(base))


def interval(value: float, draws: np.ndarray) -> Estimate:
    """The central 95 % of some draws."""
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(low), float(high))


def rank(candidates: Mapping[str, Runs], bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Candidates from best to worst.

    Returns:
        For each: `encoder`, `rank`, `mean`, `spread` (standard deviation over seeds, None for one seed), `interval`,
        `behind` (relative difference to the best with its interval), `tied` (that interval reaches 0: it is in the
        near-tie band of the best), `first` (share of the draws in which it is the best), `seeds` (mean of each).
    """
    order = sorted(candidates, key=lambda name: float(np.mean(candidates[name])))
    best = order[0]
    draws = np.stack([bootstrap.means(candidates[name]) for name in order])
    first = np.bincount(draws.argmin(0), minlength=len(order)) / draws.shape[1]
    rows = []
    for place, name in enumerate(order):
        means = np.asarray(candidates[name], float).mean(1)
        value = float(means.mean() / np.mean(candidates[best]) - 1)
        behind = interval(value, draws[place] / draws[0] - 1)
        rows.append(
            {
                "encoder": name,
                "rank": place + 1,
                "mean": round(float(means.mean()), 6),
                "spread": round(float(means.std(ddof=1)), 6) if len(means) > 1 else None,
                "interval": interval(float(means.mean()), draws[place]).to_dict(),
                "behind": behind.to_dict(),
                "tied": place == 0 or behind.low <= 0,
                "first": round(float(first[place]), 4),
                "seeds": [round(float(mean), 6) for mean in means],
            }
        )
    return rows


def tau(first: Mapping[str, float], second: Mapping[str, float]) -> float | None:
    """Kendall's tau-b between two score tables of the same candidates; None for fewer than two or only ties."""
    names = sorted(first)
    if len(names) < 2:
        return None
    value = float(kendalltau([first[n] for n in names], [second[n] for n in names]).statistic)
    return None if np.isnan(value) else round(value, 4)


def compare(small: list[dict[str, Any]], large: list[dict[str, Any]]) -> dict[str, Any]:
    """Whether the winner on one backbone is to be trusted on another: two tables of `rank`.

    Returns:
        `small_winner`, `large_winner`, `large_band` (near-tie band there), `transfers` (the small backbone's winner is
        in that band), `rank_there` (of the small one's winner), `tau`, and `seeds`: the same for each seed on its own,
        where the winner transfers if it is the winner there too.
    """
    there = {row["encoder"]: row for row in large}
    winner = small[0]["encoder"]
    means = [{row["encoder"]: row["mean"] for row in table} for table in (small, large)]
    seeds = min(len(row["seeds"]) for row in small + large)
    cells = []
    for seed in range(seeds):
        own = [{row["encoder"]: row["seeds"][seed] for row in table} for table in (small, large)]
        winners = [min(scores, key=lambda name: scores[name]) for scores in own]
        orders = [sorted(scores, key=lambda name: scores[name]) for scores in own]
        cells.append(
            {
                "seed": seed,
                "small_winner": winners[0],
                "large_winner": winners[1],
                "same_winner": winners[0] == winners[1],
                "same_order": orders[0] == orders[1],
                "tau": tau(*own),
            }
        )
    return {
        "small_winner": winner,
        "large_winner": large[0]["encoder"],
        "large_band": [row["encoder"] for row in large if row["tied"]],
        "transfers": there[winner]["tied"],
        "rank_there": there[winner]["rank"],
        "tau": tau(*means),
        "seeds": cells,
    }


def runs_of(records: Sequence[Record], metric: str = "mse", part: str = "scores") -> list[list[float]]:
    """Per-sample scores of some records, one list for each, by seed."""
    return [
        list(record[part][metric])
        for record in sorted(records, key=lambda r: r["cell"]["seed"])
        if record[part] is not None
    ]


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Every pair, in order: names go from the smallest backbone to the largest."""
    return list(combinations(names, 2))
