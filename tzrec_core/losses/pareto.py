"""Pareto-efficient weights of several objectives, from their gradients."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# What sums of weights may be off by: bounds come as float32.
_SUM_TOLERANCE = 1e-6
# Relative to the largest squared gradient; below it a difference is rounding.
_TOLERANCE = 1e-12
_TINY = np.finfo(np.float64).tiny


def pareto_weights(gram: Array, lower_bounds: Sequence[float]) -> Array:
    """Returns the weights w that minimise |sum_k w_k g_k|^2 with w >= c and sum(w) = 1.

    Lin et al., A Pareto-Efficient Algorithm for Multiple Objective Optimization in E-Commerce
    Recommendation (RecSys 2019), solved exactly, where the paper projects the solution without
    bounds. With w = c + (1 - sum(c)) u the sum is a point of the convex hull of K points, and the
    nearest of those to the origin is found as in Wolfe, Finding the nearest point in a polytope
    (Mathematical Programming 1976), which needs the points' inner products only.

    Where several weights are optimal, as for equal gradients, it is one of them; gradients that
    are all zero share what the bounds leave equally.

    Args:
        gram: [K, K], the inner products of the gradients g_k, K at least 1.
        lower_bounds: [K], the c_k, 0 or more, of sum 1 or less.

    Returns:
        [K] float64, not below the bounds, of sum 1.

    Raises:
        ValueError: A bound is negative, the bounds add up to more than 1, or an inner product is
            NaN or infinite.
    """
    lower = np.asarray(lower_bounds, np.float64)
    if (lower < 0).any() or not lower.sum() <= 1 + _SUM_TOLERANCE:
        raise ValueError(
            "lower bounds of Pareto-efficient weights must be 0 or more and add up to 1 or less, "
            f"got {lower.tolist()}"
        )
    if not np.isfinite(gram).all():
        raise ValueError("gradients of Pareto-efficient weights must be finite, got NaN or inf")
    free = float(1 - lower.sum())
    weights = lower.copy()
    if free > 0:
        weights = lower + free * nearest_point(_moved(gram, lower, free))
    weights /= weights.sum()
    return weights


def _moved(gram: Array, lower: Array, free: float) -> Array:
    """Returns the inner products of the points free * g_k + sum_j lower_j g_j."""
    cross = gram @ lower
    moved: Array = free**2 * gram + free * (cross[:, None] + cross) + lower @ cross
    return moved


def nearest_point(gram: Array) -> Array:
    """Returns the convex combination of K points that is nearest to the origin.

    Wolfe's algorithm: keep a set of points (a corral) whose affine hull has its nearest point
    inside their convex hull; add the point that reaches farthest towards the origin; where the
    nearest point of the hull is then outside, walk to the border and drop what is left there.

    Args:
        gram: [K, K], the points' inner products, positive semidefinite.

    Returns:
        [K], 0 or more, of sum 1.
    """
    num_points = len(gram)
    scale = np.diag(gram).max()
    if scale <= 0:
        return np.full(num_points, 1 / num_points)
    gram = gram / scale
    weights = np.zeros(num_points)
    corral = [int(np.argmin(np.diag(gram)))]
    weights[corral] = 1
    distance = math.inf
    while True:
        products = gram @ weights  # of each point with the current one
        added = int(np.argmin(products))
        nearer = float(weights @ products)
        is_nearest = products[added] >= nearer - _TOLERANCE
        # Each round comes nearer; one that does not shows the limit of float64.
        if is_nearest or added in corral or nearer >= distance:
            return weights
        distance = nearer
        corral.append(added)
        while True:
            target = _nearest_affine(gram[np.ix_(corral, corral)])
            current = weights[corral]
            outside = target <= 0
            if not outside.any():
                weights[corral] = target
                break
            # On the way to ``target`` some weights vanish; the first that does is dropped.
            steps = np.full(len(corral), np.inf)
            steps[outside] = current[outside] / np.maximum(current - target, _TINY)[outside]
            first = int(np.argmin(steps))
            moved = np.maximum(current + steps[first] * (target - current), 0)
            moved[first] = 0
            weights[:] = 0
            weights[corral] = moved / moved.sum()
            corral = [point for point in corral if weights[point] > 0]


def _nearest_affine(gram: Array) -> Array:
    """Returns the affine combination (any signs, sum 1) of points nearest to the origin."""
    size = len(gram)
    system = np.ones((size + 1, size + 1))
    system[0, 0] = 0
    system[1:, 1:] = gram
    right = np.zeros(size + 1)
    right[0] = 1
    # Least squares: the system is singular where the points are affinely dependent.
    return np.asarray(np.linalg.lstsq(system, right)[0][1:], np.float64)
