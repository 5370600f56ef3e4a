"""AdamW whose learning rate and weight decay differ by member."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sweeper.leave import of_kept, place_in

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


class MemberAdamW:
    """AdamW (arXiv 1711.05101) on parameters whose first axis is the member.

    torch's optimizers take one rate for a tensor; here each member brings its own, and apart from that
    the update is `torch.optim.AdamW`'s.

    Args:
        params: Parameter -> learning rate of each member, shape ``(members,)``; a scalar for a
            parameter that belongs to one member alone.
        decay: Weight decay, shaped likewise.
    """

    def __init__(self, params: Mapping[nn.Parameter, Tensor], decay: Mapping[nn.Parameter, Tensor]) -> None:
        self.state = [
            (p, _along(p, rate), _along(p, decay[p]), torch.zeros_like(p), torch.zeros_like(p))
            for p, rate in params.items()
        ]
        self.steps = 0

    def params(self) -> list[nn.Parameter]:
        """Return what it updates."""
        return [p for p, *_ in self.state]

    def carry(self, other: MemberAdamW, kept: Sequence[int], names: Mapping[nn.Parameter, str]) -> None:
        """Have another one, on some of the members, go on where this one is.

        Args:
            other: On the same parameters of a smaller pack.
            kept: The places of its members in this one's pack.
            names: Of the parameters, this one's and the other's.
        """
        mine = {names[p]: (mean, square) for p, _, _, mean, square in self.state}
        for p, _, _, mean, square in other.state:
            name = names[p]
            for old, new in zip(mine[place_in(name, kept)], (mean, square), strict=True):
                new.copy_(of_kept(old, new, kept, name))
        other.steps = self.steps

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Update all parameters from their gradients, and clear those.

        Args:
            factor: The schedule's factor on every learning rate.
        """
        self.steps += 1
        correction1 = 1 - BETA1**self.steps
        correction2 = 1 - BETA2**self.steps
        for p, rate, decay, mean, square in self.state:
            if p.grad is None:
                continue
            mean.lerp_(p.grad, 1 - BETA1)
            square.mul_(BETA2).addcmul_(p.grad, p.grad, value=1 - BETA2)
            lr = rate * factor
            p.mul_(1 - lr * decay)
            p.sub_(lr / correction1 * mean / (square.sqrt().div_(correction2**0.5)).add_(EPS))
            p.grad = None


def _along(p: nn.Parameter, value: Tensor) -> Tensor:
    """Return one value a member in a shape that broadcasts along the parameter's first axis."""
    value = value.to(p.device)
    return value.view(-1, *[1] * (p.dim() - 1)) if value.dim() else value
