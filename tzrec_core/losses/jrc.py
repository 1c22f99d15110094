"""Loss that joins ranking within a session and calibration (JRC), per row."""

import torch
from torch import Tensor
from torch.nn import functional

from tzrec_core.batch import NULL_ID


def jrc_loss(
    logits: Tensor,
    target: Tensor,
    session: Tensor,
    *,
    alpha: float,
    same_label_competes: bool,
) -> Tensor:
    """Returns alpha * cross entropy + (1 - alpha) * session term, row by row.

    Sheng et al., Joint Optimization of Ranking and Calibration with Contextualized Hybrid Model
    (KDD 2023, arXiv:2208.06164). The session term of row i with label y is the softmax cross
    entropy of its logit y among the logits y of the rows of its session::

        -log(exp(f_i[y]) / sum over j in C_i of exp(f_j[y]))

    C_i is row i and the rows of its session with the other label, as in TorchEasyRec; with
    ``same_label_competes`` it is all rows of the session, as in the paper. A row without a rival
    has the term 0: so has every row of a session of one label in the first case, and no session
    makes a NaN. Rows whose session is ``NULL_ID`` are alone. A session is what of it is in the
    batch.

    Args:
        logits: [B, 2].
        target: [B], 0 or 1.
        session: [B] int64, any values; equal ones are a session.
        alpha: Weight of the cross entropy, in [0, 1].
        same_label_competes: Whether rows of one label compete with each other.

    Returns:
        [B] float32, or float64 of float64 logits.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    label = target.long()
    cross_entropy = functional.cross_entropy(logits, label, reduction="none")
    number = _number_sessions(session)
    own = logits.gather(1, label[:, None]).squeeze(1)
    if same_label_competes:
        rivals = _session_logsumexp(logits, number)
        term = rivals.gather(1, label[:, None]).squeeze(1) - own
    else:
        # Of the logits of class c, those of the rows with the other label compete. The lowest
        # number stands for "none": its exponential is 0 beside any logit.
        others = label[:, None] != torch.arange(2, device=logits.device)
        rivals = _session_logsumexp(
            logits.masked_fill(~others, torch.finfo(logits.dtype).min / 2), number
        )
        term = functional.softplus(rivals.gather(1, label[:, None]).squeeze(1) - own)
    return alpha * cross_entropy + (1 - alpha) * term


def _number_sessions(session: Tensor) -> Tensor:
    """Returns [B] numbers below B, equal where sessions are; a null is a session of its own."""
    ordered, order = session.sort()
    begins = torch.ones_like(ordered)
    begins[1:] = (ordered[1:] != ordered[:-1]) | (ordered[1:] == NULL_ID)
    return torch.empty_like(order).scatter_(0, order, begins.cumsum(0) - 1)


def _session_logsumexp(logits: Tensor, number: Tensor) -> Tensor:
    """Returns [B, C]: for each row and class, log(sum(exp(logit))) over the row's session."""
    # As many segments as rows are enough, and tell no size to the CPU.
    index = number[:, None].expand_as(logits)
    start = torch.full_like(logits, -torch.inf)
    largest = start.scatter_reduce(0, index, logits.detach(), "amax").gather(0, index)
    exponentials = torch.exp(logits - largest)
    sums = torch.zeros_like(logits).scatter_add(0, index, exponentials).gather(0, index)
    return sums.log() + largest
