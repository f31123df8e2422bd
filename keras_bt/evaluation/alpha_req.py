"""α-ReQ, how fast the spectrum of features decays, in float64."""

import math

import numpy as np
from threadpoolctl import threadpool_limits

from keras_bt.evaluation.rankme import in_span

# Ranks that are fitted, as in the authors' code (github.com/kumarkrishna/fastssl).
FIRST, LAST = 4, 100
# Below this, relative to the root mean square of the features' lengths, deviations are the rounding
# of float32.
_ROUNDING = 1e-7


def alpha_req(features: np.ndarray) -> float:
    """Computes α-ReQ, the exponent of the power law that the features' spectrum follows.

        λ_j ∝ j^−α

    with λ the eigenvalues of the covariance, largest first. A large α means few directions; near 0
    all are equally strong. Features are said to generalize best where α is near 1.

    Args:
        features: floats (n, d).

    Returns:
        α, see `power_law_exponent`; NaN where features have too few directions for a fit.

    Raises:
        ValueError: if features are not a finite matrix with at least one entry.

    Source: Agrawal et al. 2022 (NeurIPS 35), α-ReQ.
    """
    z = in_span(features)
    with threadpool_limits(limits=1):  # see keras_bt.evaluation.rankme
        eigenvalues = np.linalg.eigvalsh(np.atleast_2d(np.cov(z, rowvar=False, bias=True)))
    varying = eigenvalues > _ROUNDING**2 * np.sum(z**2) / len(z)
    return power_law_exponent(eigenvalues[varying][::-1])


def power_law_exponent(eigenvalues: np.ndarray) -> float:
    """Fits log λ_j = c − α log j by least squares, each rank j weighted by 1/j.

    The weights make up for ranks being the denser on a logarithmic axis the larger they are.
    Fitted are ranks 4 to 100: the first few eigenvalues stand out, and those far down are noise. At
    most the first half of all ranks is used, as any finite spectrum drops at its end.

    >>> round(power_law_exponent(np.arange(1, 1001) ** -1.5), 3)
    1.5

    Args:
        eigenvalues: positive floats (k,), largest first.

    Returns:
        α; NaN if k < 10, which leaves fewer than two ranks.

    Source: `get_powerlaw` of Stringer et al. 2019 (Nature 571), which α-ReQ's authors use.
    """
    last = min(LAST, len(eigenvalues) // 2)
    if last <= FIRST:
        return math.nan
    j = np.arange(FIRST, last + 1)
    # polyfit weighs residuals before it squares them.
    slope, _ = np.polyfit(np.log(j), np.log(eigenvalues[FIRST - 1 : last]), 1, w=j**-0.5)
    return float(-slope)
