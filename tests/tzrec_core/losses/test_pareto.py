import itertools

import numpy as np
import pytest
from scipy.optimize import minimize

from tzrec_core.losses.pareto import pareto_weights


def random_problem(seed, num_objectives, num_parameters):
    """Gradients of very different sizes, and bounds that leave something to choose."""
    rng = np.random.default_rng(seed)
    sizes = 10 ** rng.uniform(-2, 2, (num_objectives, 1))
    gradients = rng.standard_normal((num_objectives, num_parameters)) * sizes
    bounds = rng.dirichlet(np.ones(num_objectives)) * rng.uniform(0, 1)
    return gradients @ gradients.T, bounds * (rng.random(num_objectives) < 0.7)


PROBLEMS = [
    (seed, num_objectives, num_parameters)
    for seed in range(10)
    for num_objectives in (1, 2, 3, 5, 12)
    # With fewer parameters than objectives gradients depend on each other.
    for num_parameters in (1, 2, 4, 50)
]


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_weights_meet_the_conditions_of_an_optimum(problem):
    gram, bounds = random_problem(*problem)

    weights = pareto_weights(gram, bounds)

    assert weights.sum() == pytest.approx(1)
    assert (weights >= bounds - 1e-12).all()
    # Karush-Kuhn-Tucker, sufficient as the problem is convex: no weight can be moved from an
    # objective that is above its bound to one with a smaller slope.
    slopes = gram @ weights / np.diag(gram).max()
    assert (slopes[weights > bounds + 1e-9] <= slopes.min() + 1e-9).all()


@pytest.mark.parametrize("problem", PROBLEMS[::7], ids=str)
def test_no_other_solver_finds_a_shorter_sum(problem):
    gram, bounds = random_problem(*problem)
    scale = np.diag(gram).max()

    other = minimize(
        lambda w: w @ gram @ w / scale,
        bounds + (1 - bounds.sum()) / len(bounds),
        jac=lambda w: 2 * gram @ w / scale,
        bounds=[(bound, 1) for bound in bounds],
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )

    weights = pareto_weights(gram, bounds)
    assert weights @ gram @ weights / scale <= other.fun + 1e-9


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_objectives", [2, 3])
def test_no_point_of_a_fine_grid_is_better(seed, num_objectives):
    gram, bounds = random_problem(seed, num_objectives, 3)
    weights = pareto_weights(gram, bounds)

    steps = [u for u in itertools.product(range(101), repeat=num_objectives) if sum(u) == 100]
    grid = bounds + (1 - bounds.sum()) * np.array(steps) / 100
    lengths = np.einsum("gk,kj,gj->g", grid, gram, grid)

    shortest = weights @ gram @ weights
    assert shortest <= lengths.min() * (1 + 1e-9)
    assert np.abs(grid[lengths.argmin()] - weights).max() < 0.05


def test_two_objectives_have_the_closed_form_weight():
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = rng.standard_normal((2, 4)) * [[1], [0.3]]
        difference = first - second
        expected = np.clip(-difference @ second / (difference @ difference), 0, 1)

        stacked = np.stack([first, second])
        assert pareto_weights(stacked @ stacked.T, [0, 0])[0] == pytest.approx(expected)


def test_opposed_gradients_cancel():
    gradients = np.array([[3.0, 0.0], [-1.0, 0.0]])

    weights = pareto_weights(gradients @ gradients.T, [0, 0])

    assert weights == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize("size", [1e-200, 1e-30, 1e30, 1e150])
def test_the_size_of_all_gradients_together_does_not_matter(size):
    gram, bounds = random_problem(1, 4, 10)

    assert pareto_weights(gram * size, bounds) == pytest.approx(pareto_weights(gram, bounds))


def test_gradients_of_zero_share_what_the_bounds_leave():
    assert pareto_weights(np.zeros((2, 2)), [0.5, 0]) == pytest.approx([0.75, 0.25])


def test_an_objective_without_a_gradient_takes_all_that_is_free():
    gram = np.diag([4.0, 0.0, 1.0])

    assert pareto_weights(gram, [0.25, 0.1, 0]) == pytest.approx([0.25, 0.75, 0])


def test_equal_gradients_are_no_trouble():
    gram = np.ones((4, 4))

    weights = pareto_weights(gram, [0.1] * 4)

    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0.1 - 1e-12).all()


def test_bounds_that_add_up_to_one_leave_no_choice():
    bounds = np.float32([0.1] * 10)  # a little more than 1 together

    assert pareto_weights(np.eye(10), bounds) == pytest.approx(bounds)


@pytest.mark.parametrize("bounds", [[-0.1, 0.5], [0.6, 0.6], [float("nan"), 0]])
def test_bounds_that_cannot_be_met_are_refused(bounds):
    with pytest.raises(ValueError, match="0 or more and add up to 1 or less, got"):
        pareto_weights(np.eye(2), bounds)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_gradients_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match="must be finite"):
        pareto_weights(np.array([[1.0, value], [value, 1.0]]), [0, 0])
