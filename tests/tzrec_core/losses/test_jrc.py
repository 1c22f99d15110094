import pytest
import torch
from torch.nn.functional import cross_entropy

from tzrec_core.batch import NULL_ID
from tzrec_core.losses.jrc import jrc_loss

BOTH = pytest.mark.parametrize("same_label_competes", [False, True])


def plain_jrc_loss(logits, target, session, alpha, same_label_competes):
    """Every row against every other one, as autograd differentiates it."""
    labels, sessions = target.long().tolist(), session.tolist()
    losses = []
    for i, (label, own_session) in enumerate(zip(labels, sessions, strict=True)):
        rivals = [
            j
            for j in range(len(labels))
            if j == i
            or (
                sessions[j] == own_session != NULL_ID
                and (same_label_competes or labels[j] != label)
            )
        ]
        point = -torch.log(logits[i, label].exp() / logits[i].exp().sum())
        listed = -torch.log(logits[i, label].exp() / logits[rivals, label].exp().sum())
        losses.append(alpha * point + (1 - alpha) * listed)
    return torch.stack(losses)


def rows(size=24, num_sessions=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    return (
        torch.randn(size, 2, generator=generator, dtype=dtype) * 2,
        torch.randint(0, 2, (size,), generator=generator),
        torch.randint(0, num_sessions, (size,), generator=generator) * 10**12 - 2 * 10**12,
    )


@BOTH
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("num_sessions", [1, 5, 1000])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_value_and_gradient_are_those_of_the_double_loop(
    same_label_competes, alpha, num_sessions, dtype
):
    logits, target, session = rows(num_sessions=num_sessions)
    target = target.to(dtype)
    row_weights = torch.rand(len(target), dtype=torch.float64)
    first, second = logits.clone().requires_grad_(), logits.clone().requires_grad_()

    values = jrc_loss(first, target, session, alpha=alpha, same_label_competes=same_label_competes)
    expected = plain_jrc_loss(second, target, session, alpha, same_label_competes)
    (values * row_weights).sum().backward()
    (expected * row_weights).sum().backward()

    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(first.grad, second.grad)


@BOTH
def test_gradient_is_the_slope(same_label_competes):
    logits, target, session = rows(size=10, num_sessions=3)

    assert torch.autograd.gradcheck(
        lambda z: jrc_loss(z, target, session, alpha=0.4, same_label_competes=same_label_competes),
        logits.requires_grad_(),
    )


@BOTH
@pytest.mark.parametrize("label", [0, 1])
def test_a_batch_of_one_label_has_finite_losses_and_gradients(same_label_competes, label):
    logits, target, session = rows(dtype=torch.float32)
    logits.requires_grad_()

    with torch.autograd.set_detect_anomaly(True):
        values = jrc_loss(
            logits,
            torch.full_like(target, label),
            session,
            alpha=0.5,
            same_label_competes=same_label_competes,
        )
        values.sum().backward()

    assert values.isfinite().all()
    assert logits.grad.isfinite().all()


def test_a_session_of_one_label_adds_nothing_to_the_cross_entropy():
    logits, _, _ = rows(size=6)
    target, session = torch.tensor([1, 1, 1, 0, 0, 0]), torch.tensor([7, 7, 7, 8, 8, 8])

    values = jrc_loss(logits, target, session, alpha=0.5, same_label_competes=False)

    torch.testing.assert_close(values, 0.5 * cross_entropy(logits, target, reduction="none"))


@BOTH
def test_rows_without_a_session_do_not_compete(same_label_competes):
    logits, target, session = rows()
    known = session != session[0]
    nulls = session.where(known, NULL_ID)

    values = jrc_loss(logits, target, nulls, alpha=0.2, same_label_competes=same_label_competes)

    expected = plain_jrc_loss(logits, target, nulls, 0.2, same_label_competes)
    alone = 0.2 * cross_entropy(logits[~known], target[~known], reduction="none")
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(values[~known], alone)


@BOTH
def test_the_order_of_the_rows_is_of_no_matter(same_label_competes):
    logits, target, session = rows()
    order = torch.randperm(len(target))
    options = {"alpha": 0.5, "same_label_competes": same_label_competes}

    values = jrc_loss(logits, target, session, **options)

    torch.testing.assert_close(
        jrc_loss(logits[order], target[order], session[order], **options), values[order]
    )


@BOTH
def test_huge_logits_have_finite_losses_and_gradients(same_label_competes):
    logits = torch.tensor([[300.0, -300.0], [-300.0, 300.0], [-200.0, 100.0]], requires_grad=True)
    target, session = torch.tensor([1, 0, 1]), torch.zeros(3, dtype=torch.int64)

    values = jrc_loss(logits, target, session, alpha=0.0, same_label_competes=same_label_competes)
    values.sum().backward()

    # Row 0 and row 2 compete with row 1, row 1 with both of them.
    torch.testing.assert_close(values, torch.tensor([600.0, 600.0, 200.0]))
    assert logits.grad.isfinite().all()


@BOTH
def test_of_half_precision_logits_it_is_float32_and_of_no_rows_empty(same_label_competes):
    logits, target, session = rows()
    logits = logits.bfloat16()
    options = {"alpha": 0.5, "same_label_competes": same_label_competes}

    values = jrc_loss(logits, target, session, **options)

    assert values.dtype == torch.float32
    torch.testing.assert_close(values, jrc_loss(logits.float(), target, session, **options))
    assert jrc_loss(logits[:0], target[:0], session[:0], **options).shape == (0,)
