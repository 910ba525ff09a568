"""The table of algorithms: one readable file each, and the loop never asks their names."""

from tether.algorithms.grpo import GRPO
from tether.algorithms.lm import LM
from tether.algorithms.ppo import PPO
from tether.algorithms.process_reward import PROCESS_REWARD
from tether.algorithms.reinforce import REINFORCE
from tether.algorithms.reward_model import REWARD_MODEL
from tether.algorithms.sft import SFT
from tether.types import Algorithm

ALGORITHMS: dict[str, Algorithm] = {a.name: a for a in (LM, SFT, REWARD_MODEL, PROCESS_REWARD, PPO, GRPO, REINFORCE)}

__all__ = ["ALGORITHMS"]
