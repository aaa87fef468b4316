"""What a configuration amounts to before any step: device, data, networks and method, all checked."""

from __future__ import annotations

import os
from typing import Any

import torch

from advae.config import Config
from advae.data import Dataset, check, load_data
from advae.errors import ConfigError
from advae.methods import METHODS, Method
from advae.model import LatentModel, build_model, seeded
from advae.training.distributed import make_fabric, one_model
from advae.training.environment import environment, find_device, find_precision
from advae.training.sync_batchnorm import synced


class Setup:
    """What a configuration amounts to, before any step: data, networks, method, all checked.

    Args:
        config: a resolved configuration.
        data: what its data options describe, where that was read already.

    Raises:
        ConfigError, DataError: the parts do not fit each other.
    """

    def __init__(self, config: Config, data: Dataset | None = None) -> None:
        self.config = config
        device = find_device(config.device, local=os.environ.get("LOCAL_RANK"))
        self.precision = find_precision(config.train.precision, device)
        self.fabric = make_fabric(device, self.precision)
        self.method: Method = METHODS.build(config.method)
        self.data: Dataset = load_data(config.data) if data is None else data
        with seeded(config.seed, self.fabric.device):
            self.model = self._build()
            check(self.data, support_of(self.model), config.train.batch_size)
            self.method.check(self.model)
            self._check_patience()

    def _build(self) -> LatentModel:
        info = {
            "recipe": self.config.recipe,
            "method": self.method.spec(),
            "data": self.data.describe(),
            "seed": self.config.seed,
        }
        model = build_model(self.config.model, self.data.x_shape, self.method.critics, info)
        # Channels last is the order in which convolutions are computed: figure 6's networks in bf16 take two thirds
        # of the time with it on a CPU. Networks without convolutions have no such weights and do not change.
        model = model.to(self.fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.fabric.world_size > 1:
            synced(model)
            one_model(self.fabric, model)
        return model

    def _check_patience(self) -> None:
        judged = self.model.has_encoder or self.model.decoder_has_density()
        if self.config.train.patience and not judged:
            raise ConfigError(
                "early stopping needs an error to watch, and a model that can only be sampled has none",
                given=f"train.patience = {self.config.train.patience}",
                remedy="leave train.patience at 0",
            )

    def parameters(self) -> dict[str, int]:
        """How many weights each network has."""
        networks = {"encoder": self.model.encoder, "decoder": self.model.decoder}
        networks |= {f"critic {role}": net for role, net in self.model.critics.items()}
        return {name: sum(p.numel() for p in net.parameters()) for name, net in networks.items()}

    def environment(self) -> dict[str, Any]:
        """What env.json says."""
        return environment(self.fabric.device, self.precision, self.data.describe(), self.parameters())


def support_of(model: LatentModel) -> str:
    """The values that the model's likelihood can score."""
    return getattr(getattr(model.decoder, "head", None), "support", "real")
