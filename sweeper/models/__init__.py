"""The networks that strategies adapt: one file a family, and two tables."""

from collections.abc import Callable

from sweeper.models import language, minilm, minilm_l3, mlp, small_cnn, tiny_transformer, torchvision
from sweeper.models.base import LoadedModel, ModelBuilder
from sweeper.registry import find, with_plugins

MODELS: dict[str, ModelBuilder] = with_plugins(
    {
        "mlp": mlp.build,
        "small_cnn": small_cnn.build,
        "tiny_transformer": tiny_transformer.build,
        "minilm": minilm.build,
        "minilm_l3": minilm_l3.build,
        "tiny_gpt": language.tiny_gpt,
        "tiny_t5": language.tiny_t5,
    },
    "sweeper.models",
)

# "family:rest" -> the builder that the family makes for the rest of the name.
FAMILIES: dict[str, Callable[[str], ModelBuilder]] = {
    "hf": language.named,
    "torchvision": torchvision.find,
}


def find_model(name: str) -> ModelBuilder:
    """Return the builder of a model in the table, or of one that a family knows by name.

    Raises:
        ValueError: there is no such model.
    """
    return find("model", name, MODELS, FAMILIES)


__all__ = ["FAMILIES", "MODELS", "LoadedModel", "ModelBuilder", "find_model"]
