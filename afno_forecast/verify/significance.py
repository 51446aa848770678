"""Whether a forecast differs from a rival by more than chance: block bootstrap over init times.

Errors of neighbouring init times are alike, so whole blocks of neighbours are drawn: circular blocks (Politis and Romano 1992) of a stated
duration, as many as there are init times, of both forecasts alike. Each replicate gives the scores of both; of their difference
(forecast minus rival) the 2.5 % and 97.5 % quantiles and a two-sided p value are kept: twice the smaller part of the replicates on one
side of zero, counting the observed one in, at most 1.

Few blocks tell too little of chance: of independent differences, without any true one, the test at 5 % finds a difference in 100 % of the
cases with one block, 27 % with two, 12 % with five, 10 % with eight, 8 % with ten, 6 % with twenty. Below eight nothing is tested.
"""

# R region, C channel

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .deterministic import Deterministic
from .ensemble import Ensemble
from .sample import Family, Float, Rows
from .scores import Scorer

COMPARED = ("rmse", "mae", "acc", "crps")
FEWEST_BLOCKS = 8
"""Blocks that the init times must hold, so that chance passes for a difference at most twice as often as the test says."""
_AT_ONCE = 100  # replicates
_BULKY = ("ranks", "spectrum", "quantiles", "events")


def compare(ours: Scorer, theirs: Scorer, lead: int, *, block_seconds: int, replicates: int, seed: int) -> dict[str, Float]:
    """Differences at a lead time over the init times of both.

    Args:
        ours: the forecast.
        theirs: the rival; its mean absolute error stands for the CRPS that a single forecast does not have.
        lead: lead time in seconds.
        block_seconds: length of a block of init times.
        replicates: how many are drawn.
        seed: of the draw, with the lead time.

    Returns:
        `<metric>` and `<metric>_low`, `<metric>_high`, `<metric>_p` for each of `COMPARED` that both have; each (R, C). The last three are
        NaN where the init times hold fewer than `FEWEST_BLOCKS`.
    """
    inits = common_inits(ours, theirs, lead)
    if not inits:
        return {}
    counts = np.zeros((0, len(inits)))
    if num_blocks(inits, block_seconds) >= FEWEST_BLOCKS:
        counts = _draw(inits, block_seconds, replicates, np.random.default_rng((seed, lead)))
    pairs = [(_stack(s, inits, lead), _plain(s)) for s in (ours, theirs)]
    observed = _difference(pairs, np.ones((1, len(inits))))
    drawn = [_difference(pairs, counts[k:k + _AT_ONCE]) for k in range(0, len(counts), _AT_ONCE)]
    result = {}
    for metric, value in observed.items():
        result[metric] = value[0]
        tested = _interval(value[0], np.concatenate([d[metric] for d in drawn])) if drawn else np.full((3, *value[0].shape), np.nan)
        result |= {f"{metric}_{ending}": found for ending, found in zip(("low", "high", "p"), tested, strict=True)}
    return result


def common_inits(ours: Scorer, theirs: Scorer, lead: int) -> list[int]:
    """Init times that both have at a lead time, ascending."""
    return [i for i in ours.inits(lead) if (i, lead) in theirs.rows]


def block_length(inits: list[int], block_seconds: int) -> int:
    """Init times that a block's duration holds, at least one."""
    return max(1, math.ceil(block_seconds / float(np.median(np.diff(inits))))) if len(inits) > 1 else 1


def num_blocks(inits: list[int], block_seconds: int) -> int:
    """Whole blocks that the init times hold."""
    return len(inits) // block_length(inits, block_seconds)


def _interval(observed: Float, samples: Float) -> tuple[Float, Float, Float]:
    """The 2.5 % and 97.5 % quantiles of the replicates along the first axis and the p value, NaN where nothing is observed."""
    low, high = np.quantile(samples, [0.025, 0.975], axis=0)
    below, above = (samples <= 0).sum(axis=0), (samples >= 0).sum(axis=0)
    p = np.minimum(1.0, 2 * (1 + np.minimum(below, above)) / (len(samples) + 1))
    return low, high, np.where(np.isnan(observed), np.nan, p)


def _draw(inits: list[int], block_seconds: int, replicates: int, generator: np.random.Generator) -> Float:
    """How often each init time is in each replicate; (replicates, N)."""
    num, length = len(inits), block_length(inits, block_seconds)
    starts = generator.integers(num, size=(replicates, math.ceil(num / length)))
    chosen = ((starts[:, :, None] + np.arange(length)) % num).reshape(replicates, -1)[:, :num]
    counts = np.zeros((replicates, num))
    np.add.at(counts, (np.arange(replicates)[:, None], chosen), 1)
    return counts


def _plain(scorer: Scorer) -> list[Family]:
    return [f for f in scorer.families if isinstance(f, Deterministic | Ensemble)]


def _stack(scorer: Scorer, inits: list[int], lead: int) -> Rows:
    rows = [scorer.rows[i, lead] for i in inits]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0] if name not in _BULKY}


def _difference(pairs: list[tuple[Rows, list[Family]]], counts: NDArray[np.float64]) -> Mapping[str, Float]:
    """Scores of the first minus those of the second for each set of counts; (replicates, R, C)."""
    scores = []
    for rows, families in pairs:
        mean = {name: np.tensordot(counts, value, axes=1) / counts.shape[1] for name, value in rows.items()}
        scores.append({m: v for family in families for m, v in family.scores(mean).items()})
    ours, theirs = scores
    if "crps" in ours and "crps" not in theirs:
        theirs["crps"] = theirs["mae"]
    return {m: ours[m] - theirs[m] for m in COMPARED if m in ours and m in theirs}
