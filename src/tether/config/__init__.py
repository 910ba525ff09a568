"""What a recipe may say, and reading one. Pydantic models, frozen; nothing here imports torch.

sections.py   the tables stages share
policy.py     those of algorithms that sample
recipe.py     the run and its stages
rounds.py     stages once a round
load.py       TOML → Recipe, every mistake reported at once
overrides.py  `--set STAGE.FIELD=VALUE`
problems.py   a validation error as a line that names field, value and what is valid
describe.py   what a field accepts, in words
schema.py     JSON schema for editors
reference.py  the reference page
"""

from tether.config.load import (
    Sections,
    find_recipe,
    load_recipe,
    parse_recipe,
    parse_stage,
    read_toml,
    shipped_recipes,
)
from tether.config.policy import KLConfig, PolicySection, Reward, RewardTerm, as_terms
from tether.config.recipe import Recipe, RunConfig, stage_references
from tether.config.rounds import LoopConfig
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
    "KLConfig",
    "LoopConfig",
    "OptimConfig",
    "PolicySection",
    "Recipe",
    "Reward",
    "RewardTerm",
    "RunConfig",
    "SamplingConfig",
    "Section",
    "Sections",
    "StageSection",
    "TrainConfig",
    "TrainSection",
    "as_terms",
    "find_recipe",
    "load_recipe",
    "parse_recipe",
    "parse_stage",
    "read_toml",
    "shipped_recipes",
    "stage_references",
]
