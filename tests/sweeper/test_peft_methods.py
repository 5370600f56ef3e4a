"""Methods of the installed peft as strategies, without code of ours for any of them."""

from __future__ import annotations

import builtins

import pytest
import torch

from sweeper.members import CannotPackError
from sweeper.models import LoadedModel
from sweeper.models.base import NotApplicableError, UnavailableError
from sweeper.strategies import find_strategy, hparams_of, peft_methods
from sweeper.train import train_pack
from tests import small

pytest.importorskip("peft")
from tests.families import FAMILIES


def trained(family: str, method: str, head_is_fresh: bool = False, seed: int = 5, **hparams: object) -> LoadedModel:
    loaded = FAMILIES[family]((1, 8, 8), 10, 0) if family in FAMILIES else small.model(family, [seed])
    loaded.seeds, loaded.head_is_fresh = (seed,), head_is_fresh
    rows = small.data().splits
    strategy = find_strategy(f"peft:{method}")(**hparams)
    (measured,) = train_pack(
        loaded, [strategy], [small.train_args(1, steps=40)], [rows["train"]], [rows["valid"]], "accuracy"
    )
    assert measured.curve[-1]["train_loss"] < measured.curve[0]["train_loss"]
    assert measured.trainable_params == loaded.trainable_params(0)
    return loaded


def inputs() -> torch.Tensor:
    return small.data().splits["test"].x[:5]


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("method", ["lora", "vera", "ia3", "oft", "prompt_tuning", "prefix_tuning", "ln_tuning"])
@pytest.mark.parametrize("head_is_fresh", [False, True])
def test_a_method_trains_what_it_adds_and_the_head_if_fresh(family: str, method: str, head_is_fresh: bool) -> None:
    loaded = trained(family, method, head_is_fresh)
    head = {p.numel() for name, p in loaded.trainable().items() if "modules_to_save" in name}
    assert bool(head) == head_is_fresh
    assert all(
        "modules_to_save" in name or any(p is q for q in loaded.switches[0].own_parameters())
        for name, p in loaded.trainable().items()
    )


def test_it_is_the_method_that_we_have_ourselves() -> None:
    theirs = trained("bert", "lora", r=4, target_modules="query+value")
    assert theirs.trainable_params(0) == 2 * 2 * (32 + 32) * 4
    before = FAMILIES["bert"]((1, 8, 8), 10, 0).network(inputs())
    assert not torch.allclose(theirs.network(inputs()), before)
    theirs.switch(False)
    assert torch.equal(theirs.network(inputs()), before)


@pytest.mark.parametrize("family", ["small_cnn", "tiny_transformer", "mlp"])
def test_it_works_on_networks_that_are_no_transformers(family: str) -> None:
    trained(family, "lora")


def test_the_seed_decides_the_run() -> None:
    one, same, other = (trained("bert", "lora", seed=seed, lora_dropout=0.2).network(inputs()) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


def test_hyperparameters_are_those_that_were_set() -> None:
    strategy = find_strategy("peft:vera")
    assert hparams_of(strategy()) == {}
    assert hparams_of(strategy(r=16)) == {"r": 16}
    assert find_strategy("peft:vera") is strategy


def test_what_it_cannot_do_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"no method named 'lorra' in peft .* Did you mean 'lora'"):
        find_strategy("peft:lorra")
    strategy = find_strategy("peft:lora")
    with pytest.raises(CannotPackError):
        next(strategy().adapt(small.model("mlp", [0, 1]), [strategy(), strategy()]))
    with pytest.raises(NotApplicableError, match="virtual tokens"):
        trained("mlp", "prompt_tuning")
    with pytest.raises(ValueError, match=r"peft:lora: .*r.* should be a positive integer"):
        trained("bert", "lora", r=0)

    real = builtins.__import__

    def without_peft(name: str, *args: object, **kwargs: object) -> object:
        if name == "peft":
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_peft)
    missing = peft_methods.method("lora")()
    with pytest.raises(UnavailableError, match=r"pip install 'sweeper-advisor\[hf\]'"):
        next(missing.adapt(small.model("mlp", [0]), [missing]))
