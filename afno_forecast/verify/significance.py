"""Whether a forecast differs from a rival by more than chance: block bootstrap over init times.

Errors of neighbouring init times are alike, so whole blocks of neighbours are drawn: circular blocks (Politis and Romano 1992) of a stated
duration, as many as there are init times, of both forecasts alike. Each replicate gives the scores of both; of their difference
(forecast minus rival) the 2.5 % and 97.5 % quantiles and a two-sided p value are kept: twice the smaller part of the replicates on one
side of zero, counting the observed one in, at most 1.
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
        `<metric>` and `<metric>_low`, `<metric>_high`, `<metric>_p` for each of `COMPARED` that both have; each (R, C).
    """
    inits = [i for i in ours.inits(lead) if (i, lead) in theirs.rows]
    if not inits:
        return {}
    counts = _draw(inits, block_seconds, replicates, np.random.default_rng((seed, lead)))
    whole = np.ones((1, len(inits)))
    pairs = [(_stack(s, inits, lead), _plain(s)) for s in (ours, theirs)]
    observed = _difference(pairs, whole)
    drawn = [_difference(pairs, counts[k:k + _AT_ONCE]) for k in range(0, replicates, _AT_ONCE)]
    result = {}
    for metric, value in observed.items():
        samples = np.concatenate([d[metric] for d in drawn])
        result[metric] = value[0]
        result[f"{metric}_low"], result[f"{metric}_high"] = np.quantile(samples, [0.025, 0.975], axis=0)
        below, above = (samples <= 0).sum(axis=0), (samples >= 0).sum(axis=0)
        p = np.minimum(1.0, 2 * (1 + np.minimum(below, above)) / (replicates + 1))
        result[f"{metric}_p"] = np.where(np.isnan(value[0]), np.nan, p)
    return result


def block_length(inits: list[int], block_seconds: int) -> int:
    """Init times in a block: those that a block's duration holds, at least one, at most all."""
    spacing = float(np.median(np.diff(inits))) if len(inits) > 1 else 1.0
    return min(len(inits), max(1, math.ceil(block_seconds / spacing)))


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
