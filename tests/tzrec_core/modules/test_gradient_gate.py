import torch
from torchrec import KeyedTensor

from tzrec_core.modules.gradient_gate import GradientGate


def embeddings(table):
    """Returns two keys of widths 2 and 1 that come from ``table`` [B, 3]."""
    return KeyedTensor(keys=["a", "b"], length_per_key=[2, 1], values=table * 3)


def loss_of(gate, table):
    (passed,) = gate([embeddings(table)])
    assert passed.keys() == ["a", "b"]
    return (passed["a"] ** 2).sum() + passed["b"].sum()


def gradient(table):
    other = table.detach().clone().requires_grad_()
    loss_of(GradientGate(), other).backward()
    return other.grad


def closed():
    gate = GradientGate()
    gate.is_closed = True
    return gate


def test_an_open_gate_is_not_there():
    table = torch.randn(4, 3, requires_grad=True)
    given = [embeddings(table)]

    assert GradientGate()(given) is given


def test_a_closed_gate_holds_the_gradient_back_until_it_is_released_with_a_factor():
    table, gate = torch.randn(4, 3, requires_grad=True), closed()

    loss_of(gate, table).backward()
    assert table.grad is None
    assert [held.shape for held in gate.gradients()] == [(4, 3)]
    gate.release(factor=0.5)

    torch.testing.assert_close(table.grad, gradient(table) * 0.5)


def test_a_gradient_that_is_dropped_reaches_nothing():
    table, gate = torch.randn(4, 3, requires_grad=True), closed()

    loss_of(gate, table).backward()
    gate.drop()
    gate.release(factor=1.0)

    assert table.grad is None
    assert list(gate.gradients()) == []


def test_embeddings_that_no_loss_uses_have_gradient_0():
    table, gate = torch.randn(4, 3, requires_grad=True), closed()

    gate([embeddings(table)])
    gate.release(factor=1.0)

    assert torch.equal(table.grad, torch.zeros(4, 3))


def test_evaluation_passes_a_closed_gate():
    table, gate = torch.randn(4, 3, requires_grad=True), closed()

    with torch.no_grad():
        loss_of(gate, table)

    gate.release(factor=1.0)
    assert table.grad is None
