"""Member layers against as many plain layers, and AdamW against torch's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sweeper.members import MemberBatchNorm2d, MemberCopies, MemberLinear, member_of, to_channels, to_rows, widen
from sweeper.optim import MemberAdamW

K, BATCH = 3, 4


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Linear(5, 7), (5,)),
        (lambda: nn.Linear(5, 7, bias=False), (6, 5)),
        (lambda: nn.Conv2d(2, 6, 3, stride=2, padding=1), (2, 9, 9)),
        (lambda: nn.Conv2d(4, 6, 3, groups=2, bias=False), (4, 5, 5)),
        (lambda: nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), (2, 6, 6)),
        (lambda: nn.LayerNorm(5), (6, 5)),
        (lambda: nn.LayerNorm((6, 5)), (6, 5)),
        (lambda: nn.LayerNorm(5, bias=False), (6, 5)),
        (lambda: nn.LayerNorm(5, elementwise_affine=False), (6, 5)),
        (lambda: nn.BatchNorm2d(3), (3, 4, 4)),
        (lambda: nn.PReLU(), (4,)),
        (lambda: nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2)), (5,)),
    ],
)
def test_each_member_has_its_own_layer(make: object, shape: tuple[int, ...]) -> None:
    base = make()  # type: ignore[operator]
    wide = widen(base, K)
    # Give each member other weights, and build its plain twin from them.
    generator = torch.Generator().manual_seed(0)
    for p in wide.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    x = torch.randn(K * BATCH, *shape, generator=generator)
    got = wide(x).chunk(K)
    for k in range(K):
        twin = make()  # type: ignore[operator]
        mine = {n: p for n, p in wide.named_parameters() if member_of(n) in (None, k)}
        for (_, target), (name, source) in zip(twin.named_parameters(), mine.items(), strict=True):
            target.data = source.detach().clone() if member_of(name) is not None else source[k].detach().clone()
        torch.testing.assert_close(got[k], twin.train()(x.chunk(K)[k]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "base", [nn.Linear(5, 7), nn.Conv2d(2, 6, 3), nn.LayerNorm(5), nn.BatchNorm2d(3), nn.Embedding(4, 3)]
)
def test_one_members_layer_is_where_the_members_are(base: nn.Module) -> None:
    # torch's device without numbers stands for a GPU.
    wide = widen(base, K, tokens=base).to("meta")
    plain = wide.plain(1)  # type: ignore[operator]
    assert {tensor.device.type for tensor in (*plain.parameters(), *plain.buffers())} == {"meta"}


def test_each_member_normalises_by_its_own_rows_and_keeps_its_own_statistics() -> None:
    generator = torch.Generator().manual_seed(0)
    base = nn.BatchNorm2d(3, eps=1e-3, momentum=0.3)
    base(torch.rand(BATCH, 3, 5, 5, generator=generator))  # statistics that are not those of a new layer
    wide = widen(copy.deepcopy(base), K)
    assert isinstance(wide, MemberBatchNorm2d)
    twins = [copy.deepcopy(base) for _ in range(K)]
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(wide, name).copy_(torch.randn(K, 3, generator=generator))
            for k, twin in enumerate(twins):
                getattr(twin, name).copy_(getattr(wide, name)[k])

    def check(rows: int, places: int) -> None:
        x = torch.randn(K * rows, 3, places, places, generator=generator)
        y = wide(x)
        for k, twin in enumerate(twins):
            torch.testing.assert_close(y.chunk(K)[k], twin(x.chunk(K)[k]))
            plain = wide.plain(k)
            torch.testing.assert_close(plain(x.chunk(K)[k]), copy.deepcopy(twin).eval()(x.chunk(K)[k]))
            for name, value in twin.named_buffers():
                torch.testing.assert_close(plain.get_buffer(name), value)

    check(BATCH, 5)
    check(BATCH, 1)
    wide.eval()
    for twin in twins:
        twin.eval()
    check(BATCH, 5)
    wide.train()  # one value a channel: plain layers in training would refuse
    check(1, 1)


def test_copies_pass_on_all_that_a_module_is_given_and_gives() -> None:
    base = nn.MultiheadAttention(4, 2, batch_first=True)
    wide = widen(copy.deepcopy(base), K)
    x = torch.randn(K * BATCH, 5, 4)
    y, weights = wide(x, key=x, value=2 * x, need_weights=False)
    torch.testing.assert_close(y, base(x, x, 2 * x)[0])
    assert weights is None


def test_embedding_rows_are_each_members_own() -> None:
    table = nn.Embedding(10, 4)
    wide = widen(table, K, table)
    weight = next(wide.parameters())
    weight.data = torch.randn(weight.shape)
    ids = torch.randint(10, (K * BATCH, 5))
    expected = torch.cat([weight[k][part] for k, part in enumerate(ids.chunk(K))])
    assert torch.equal(wide(ids), expected)


def test_widening_twice_changes_nothing() -> None:
    wide = widen(nn.Linear(3, 2), K)
    assert widen(wide, K) is wide
    assert isinstance(wide, MemberLinear)


def test_a_module_nobody_knows_is_copied_for_each_member() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.shift

    assert isinstance(widen(Own(), K), MemberCopies)


def test_to_channels_and_back() -> None:
    x = torch.randn(K * BATCH, 2, 5, 5)
    assert torch.equal(to_rows(to_channels(x, K), K), x)


@pytest.mark.parametrize("lr", [(1e-3, 1e-2, 0.1)])
@pytest.mark.parametrize("decay", [(0.0, 0.1, 0.5)])
def test_adamw_equals_torch(lr: tuple[float, ...], decay: tuple[float, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(K, 4, 2, generator=generator)
    p = nn.Parameter(start.clone())
    ours = MemberAdamW({p: torch.tensor(lr)}, {p: torch.tensor(decay)})
    twins = [nn.Parameter(start[k].clone()) for k in range(K)]
    theirs = [torch.optim.AdamW([twin], lr=lr[k], weight_decay=decay[k]) for k, twin in enumerate(twins)]
    for step in range(20):
        grad = torch.randn(K, 4, 2, generator=generator)
        factor = 1 / (step + 1)
        p.grad = grad.clone()
        ours.step(factor)
        for k in range(K):
            twins[k].grad = grad[k].clone()
            theirs[k].param_groups[0]["lr"] = lr[k] * factor
            theirs[k].step()
    torch.testing.assert_close(p.data, torch.stack([twin.data for twin in twins]), rtol=1e-5, atol=1e-6)
    assert p.grad is None
