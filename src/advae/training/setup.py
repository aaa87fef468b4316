"""Everything that a configuration describes, built and checked before the first step."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import torch

from advae.config import Config
from advae.data import Dataset, check_compatibility, from_arrays, load_data
from advae.devices import environment_info, find_device, find_precision, isolated_torch_state
from advae.errors import ConfigError
from advae.methods import METHODS, Method
from advae.model import LatentModel
from advae.training.data_start import build_from_data
from advae.training.distributed import make_fabric, prepare_model


class Setup:
    """Device, data, networks and method of a run.

    Args:
        config: a resolved configuration.
        data: the data set if it is already loaded, or examples in memory (:func:`advae.data.from_arrays`).

    Raises:
        ConfigError, DataError: the parts do not fit each other.
    """

    def __init__(self, config: Config, data: Any = None) -> None:
        self.config = config
        device = find_device(config.device, local_rank=os.environ.get("LOCAL_RANK"))
        self.precision = find_precision(config.train.precision, device)
        self.fabric = make_fabric(device, self.precision)
        self.method: Method = METHODS.build(config.method)
        self.data: Dataset = load_data(config.data) if data is None else from_arrays(data, config.data)
        # Where data that were passed come from, and what preprocessing "auto" is.
        known: dict[str, Any] = {"source": self.data.source, "preprocessing": self.data.preprocessing.name}
        self.config = replace(config, data=replace(config.data, **known))
        with isolated_torch_state(config.seed, self.fabric.device):
            self.model = self._build_model()
            check_compatibility(self.data, self.model.likelihood_support or "real", config.train.batch_size)
            self.method.check(self.model)
            self._check_patience()
            self._check_batch_norm()

    def _build_model(self) -> LatentModel:
        info = {
            "recipe": self.config.recipe,
            "method": self.method.spec(),
            "data": self.data.describe(),
            "seed": self.config.seed,
        }
        model = build_from_data(self.config.model, self.data, self.method.critics, info)
        model = to_device(model, self.fabric.device)
        prepare_model(self.fabric, model)
        return model

    def _check_patience(self) -> None:
        can_validate = self.model.has_encoder or self.model.decoder_has_density()
        if self.config.train.patience and not can_validate:
            raise ConfigError(
                "Early stopping needs a validation error, and this model can only be sampled.",
                given=f"train.patience = {self.config.train.patience}",
                fix="set train.patience to 0",
            )

    def _check_batch_norm(self) -> None:
        train = self.config.train
        has_batch_norm = any(
            isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in self.model.modules()
        )
        if has_batch_norm and train.batch_size * self.fabric.world_size == train.accumulation_steps:
            raise ConfigError(
                "Batch normalization needs more than one example at a time.",
                given=f"train.batch_size {train.batch_size}, train.accumulation_steps {train.accumulation_steps}",
                fix="set train.batch_size to twice train.accumulation_steps, or more",
            )

    def num_parameters(self) -> dict[str, int]:
        """Return the number of parameters of each network."""
        networks = {"encoder": self.model.encoder, "decoder": self.model.decoder}
        networks |= {f"critic {role}": net for role, net in self.model.critics.items()}
        return {name: sum(p.numel() for p in net.parameters()) for name, net in networks.items()}

    def environment(self) -> dict[str, Any]:
        """Return the content of env.json."""
        return environment_info(
            self.fabric.device, self.precision, self.data.describe(), self.num_parameters()
        )


def to_device(model: LatentModel, device: torch.device) -> LatentModel:
    """Move a model to a device, with convolution weights in channels-last order.

    In bfloat16 on a CPU, the networks of AS-VAE's figure 6 take two thirds of the time that way.
    """
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
