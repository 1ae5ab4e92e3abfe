"""The head that a network without one gets: multinomial logistic regression on its features."""

from __future__ import annotations

from ..._extras import extra

with extra("deep"):
    import torch
    from torch import Tensor, nn

WEIGHT_DECAY = 1e-4
_STEPS = 300


def fit_head(head: nn.Linear, Z: Tensor, labels: Tensor) -> None:
    """Fit a linear head to features (N, m) of a task, in place.

    Minimizes the mean cross-entropy plus ``WEIGHT_DECAY / 2 ||W||^2`` by L-BFGS, on features that
    are centred and scaled by one number, for the sake of the steps.
    """
    mean = Z.mean(0)
    scale = (Z - mean).square().mean().sqrt()
    X = (Z - mean) / scale
    weight = torch.zeros_like(head.weight, requires_grad=True)
    bias = torch.zeros(head.out_features, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_STEPS, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(X @ weight.T + bias, labels)
        loss = loss + 0.5 * WEIGHT_DECAY * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        head.weight.copy_(weight / scale)
        head.bias.copy_(bias - head.weight @ mean)
