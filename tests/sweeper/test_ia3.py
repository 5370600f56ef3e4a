"""IA3 against peft's, and against the scaled weight it stands for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sweeper.models import tiny_transformer
from sweeper.models.base import NotApplicableError
from sweeper.strategies.ia3 import IA3, Rescaled
from sweeper.torchvision_ops import declare_missing_ops
from tests import small

D, FF = 32, 128


def test_same_logits_as_peft() -> None:
    declare_missing_ops()
    peft = pytest.importorskip("peft")
    ours = tiny_transformer.build((8,), n_classes=3, seed=0)
    ours.seeds = (0, 1)
    config = peft.IA3Config(target_modules=["key", "value", "mlp_out"], feedforward_modules=["mlp_out"])
    theirs = [peft.inject_adapter_in_model(config, copy.deepcopy(ours.network)) for _ in range(2)]
    next(IA3().adapt(ours, [IA3(), IA3()]))
    vectors = [{n: p for n, p in member.named_parameters() if "ia3_l" in n} for member in theirs]
    assert len(vectors[0]) == len(ours.switches) == 2 * 3
    with torch.no_grad():
        for k in range(2):
            for name, vector in vectors[k].items():
                vector.uniform_(-2, 2)
                ours.get(name.split(".ia3_l")[0]).scale[k] = vector.flatten()
    ids = torch.randint(100, (4, 8))
    for k, logits in enumerate(ours.logits(torch.cat([ids, ids]))):
        torch.testing.assert_close(logits, theirs[k](ids))


def test_what_it_costs() -> None:
    model = tiny_transformer.build((8,), n_classes=3, seed=0)
    next(IA3().adapt(model, [IA3()]))
    assert model.trainable_params(0) == 2 * (D + D + FF) == 384  # keys, values, inner activations
    assert model.total_params(0) == model.loaded_params + 384


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(
    ("base", "shape"),
    [
        (nn.Linear(6, 8), (5, 6)),
        (nn.Linear(6, 8, bias=False), (2, 3, 6)),  # four axes, features last
        (nn.Conv2d(6, 8, 3, padding=1), (6, 7, 7)),
        (nn.Conv2d(6, 8, 3, stride=2, groups=2), (6, 9, 9)),
    ],
)
def test_each_member_is_the_base_with_rescaled_features(base: nn.Module, shape: tuple[int, ...], before: bool) -> None:
    layer = Rescaled(base, 3, before)
    torch.nn.init.normal_(layer.scale)
    x = torch.randn(3 * 4, *shape)
    for k, (got, part) in enumerate(zip(layer(x).chunk(3), x.chunk(3), strict=True)):
        wide = layer.scale[k].view(-1, 1, 1) if isinstance(base, nn.Conv2d) else layer.scale[k]
        torch.testing.assert_close(got, base(part * wide) if before else base(part) * wide)
        torch.testing.assert_close(layer.merged(k)(part), got, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", ["mlp", "small_cnn"])
def test_other_models_may_name_their_own_layers(model: str) -> None:
    targets = {"mlp": "linear", "small_cnn": "conv+linear"}[model]
    x = small.data().splits["train"].x[:16]
    small.check_what_is_added(lambda seeds: small.model(model, seeds), x, [IA3(targets)] * 2)


def test_a_model_without_keys_says_what_may_be_named() -> None:
    with pytest.raises(NotApplicableError, match=r"^ia3 does not apply: .* ia3.targets may name .*: conv, linear$"):
        next(IA3().adapt(small.model("small_cnn", [0]), [IA3()]))
    with pytest.raises(ValueError, match="no role named 'keys'") as raised:
        next(IA3("keys").adapt(small.model("tiny_transformer", [0]), [IA3("keys")]))
    assert not isinstance(raised.value, NotApplicableError)
    with pytest.raises(ValueError, match=r"ia3.targets must be roles joined by '\+', got 3"):
        IA3(3)  # type: ignore[arg-type]
