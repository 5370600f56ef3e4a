"""The networks that strategies adapt: one file a family, and this table."""

from sweeper.models import mlp, small_cnn, tiny_transformer
from sweeper.models.base import LoadedModel, ModelBuilder
from sweeper.registry import with_plugins

MODELS: dict[str, ModelBuilder] = with_plugins(
    {
        "mlp": mlp.build,
        "small_cnn": small_cnn.build,
        "tiny_transformer": tiny_transformer.build,
    },
    "sweeper.models",
)

__all__ = ["MODELS", "LoadedModel", "ModelBuilder"]
