from itertools import combinations

import pytest
import torch

from tzrec_core.modules.interaction import DotInteraction, factorization_machine


@pytest.mark.parametrize("num_vectors", [1, 2, 5])
def test_factorization_machine_sums_the_products_of_all_pairs(num_vectors):
    vectors = torch.randn(3, num_vectors, 4, dtype=torch.float64)
    expected = torch.zeros(3, 4, dtype=torch.float64)
    for i, j in combinations(range(num_vectors), 2):
        expected += vectors[:, i] * vectors[:, j]
    torch.testing.assert_close(factorization_machine(vectors), expected)


def test_gradient_of_the_factorization_machine_is_exactly_that_of_autograd():
    vectors = torch.randn(3, 5, 4, requires_grad=True)
    weight = torch.randn(3, 4)
    (factorization_machine(vectors) * weight).sum().backward()
    ours, vectors.grad = vectors.grad, None
    total = vectors.sum(dim=1)
    pairs = 0.5 * (total * total - (vectors * vectors).sum(dim=1))
    (pairs * weight).sum().backward()
    assert torch.equal(ours, vectors.grad)


def test_scripted_factorization_machine_gives_the_same_values():
    vectors = torch.randn(3, 5, 4)
    scripted = torch.jit.script(factorization_machine)
    assert torch.equal(scripted(vectors), factorization_machine(vectors))


@pytest.mark.parametrize("num_vectors", [1, 2, 6])
def test_dot_interaction_lists_the_dot_products_of_all_pairs(num_vectors):
    vectors = torch.randn(3, num_vectors, 4)
    interaction = DotInteraction(num_vectors)
    pairs = list(combinations(range(num_vectors), 2))
    expected = [(vectors[:, i] * vectors[:, j]).sum(dim=1) for i, j in pairs]

    outputs = interaction(vectors)

    assert outputs.shape == (3, interaction.out_features) == (3, len(pairs))
    for column, values in enumerate(expected):
        torch.testing.assert_close(outputs[:, column], values)


def test_gradient_of_the_dot_interaction_is_that_of_finite_differences():
    vectors = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(DotInteraction(4), [vectors])


def test_scripted_dot_interaction_gives_the_same_values_and_gradients():
    interaction = DotInteraction(5)
    vectors = torch.randn(4, 5, 3)
    weight = torch.randn(4, 10)
    results = []
    for module in (interaction, torch.jit.script(interaction)):
        leaf = vectors.clone().requires_grad_()
        outputs = module(leaf)
        (outputs * weight).sum().backward()
        results.append((outputs, leaf.grad))
    torch.testing.assert_close(results[0], results[1])


def test_dot_interaction_trains_under_autocast():
    vectors = torch.randn(4, 5, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = DotInteraction(5)(vectors)
    outputs.float().sum().backward()
    # The sum of all dot products has the gradient: the sum of the other vectors.
    expected = vectors.detach().sum(dim=1, keepdim=True) - vectors.detach()
    assert outputs.dtype == torch.bfloat16
    torch.testing.assert_close(vectors.grad, expected, rtol=0.02, atol=0.05)
