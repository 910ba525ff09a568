"""The table of algorithms: one readable file each, and the loop never asks their names."""

from tether.algorithms.dpo import DPO
from tether.algorithms.grpo import GRPO
from tether.algorithms.kto import KTO
from tether.algorithms.lm import LM
from tether.algorithms.online_dpo import ONLINE_DPO
from tether.algorithms.orpo import ORPO
from tether.algorithms.ppo import PPO
from tether.algorithms.process_reward import PROCESS_REWARD
from tether.algorithms.reinforce import REINFORCE
from tether.algorithms.reward_model import REWARD_MODEL
from tether.algorithms.sft import SFT
from tether.algorithms.spin import SPIN
from tether.types import Algorithm

_ROWS = (LM, SFT, REWARD_MODEL, PROCESS_REWARD, PPO, GRPO, REINFORCE, DPO, ONLINE_DPO, KTO, ORPO, SPIN)
ALGORITHMS: dict[str, Algorithm] = {a.name: a for a in _ROWS}

__all__ = ["ALGORITHMS"]
