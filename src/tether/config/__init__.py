"""What a recipe may say. Pydantic models, frozen; nothing here imports torch."""

from tether.config.sections import (
    DataConfig,
    OptimConfig,
    SamplingConfig,
    Section,
    StageSection,
    TrainConfig,
    TrainSection,
)

__all__ = [
    "DataConfig",
    "OptimConfig",
    "SamplingConfig",
    "Section",
    "StageSection",
    "TrainConfig",
    "TrainSection",
]
