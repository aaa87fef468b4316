"""Baselines of the training benchmark: hand-written loops and pythae's trainer, on the same networks."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from advae import build_model, resolve
from advae.methods import METHODS
from advae.training.benchmark import StepBenchmark

SHAPE = (1, 28, 28)
HIDDEN, LATENT_DIM, DECODER_HIDDEN = (500, 500), 32, (300, 300)  # vae-mnist-fc32
Loop = Callable[[int], object]


def mlp(*widths: int) -> nn.Sequential:
    """Return linear layers with ELU between them."""
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ELU()]
    return nn.Sequential(*layers[:-1])


def raw_batches(images: Tensor, size: int) -> Iterator[Tensor]:
    """Yield shuffled batches of 8-bit images, forever."""
    while True:
        order = torch.randperm(len(images), device=images.device)
        for start in range(0, len(images) - size + 1, size):
            yield images[order[start : start + size]]


def batches(images: Tensor, size: int) -> Iterator[Tensor]:
    """Yield shuffled batches, binarized each time."""
    return (torch.bernoulli(gray.float() / 255) for gray in raw_batches(images, size))


def bare_vae(images: Tensor, batch: int, bf16: bool) -> Loop:
    """Return a plain VAE loop: resident data, one loss, one backward pass, fused Adam."""
    step, data = vae_step(images.device, batch, bf16), batches(images, batch)

    def loop(steps: int) -> None:
        for _ in range(steps):
            step(next(data))

    return loop


def captured_vae(images: Tensor, batch: int, bf16: bool) -> Loop:
    """Return the same step as a hand-captured CUDA graph that also samples its batches."""
    step = vae_step(images.device, batch, bf16)

    def body() -> None:
        indices = torch.randint(len(images), (batch,), device=images.device)
        step(torch.bernoulli(images[indices].float() / 255))

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            body()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()

    def loop(steps: int) -> None:
        for _ in range(steps):
            graph.replay()

    loop.step = step  # type: ignore[attr-defined]  # keeps the graph's weights alive
    return loop


def vae_step(device: torch.device, batch: int, bf16: bool) -> Callable[[Tensor], None]:
    """Return one step of the VAE."""
    encoder = mlp(784, *HIDDEN, 2 * LATENT_DIM).to(device)
    decoder = mlp(LATENT_DIM, *DECODER_HIDDEN, 784).to(device)
    weights = [*encoder.parameters(), *decoder.parameters()]
    adam = torch.optim.Adam(weights, 1e-3, fused=True, capturable=device.type == "cuda")

    def step(x: Tensor) -> None:
        x = x.flatten(1)
        with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
            mu, log_var = encoder(x).float().chunk(2, 1)
            z = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
            logits = decoder(z).float()
        nll = binary_cross_entropy_with_logits(logits, x, reduction="sum") / batch
        kl = -0.5 * (1 + log_var - mu.square() - log_var.exp()).sum(1).mean()
        (nll + kl).backward()
        adam.step()
        adam.zero_grad()

    return step


def bare_avb(images: Tensor, batch: int, bf16: bool) -> Loop:
    """Return AVB with full adaptive contrast on table 3a's networks: two losses, two backward passes, two Adams."""
    device, m, noise, width, draws = images.device, 16, 32, 32, 512
    encoder = mlp(784, *HIDDEN, LATENT_DIM * (1 + m)).to(device)
    decoder, critic = (
        mlp(LATENT_DIM, *DECODER_HIDDEN, 784).to(device),
        mlp(784 + LATENT_DIM, 512, 512, 1).to(device),
    )
    sizes = [noise, width, width, LATENT_DIM]
    basis = [nn.Parameter(0.1 * torch.randn(m, a, b, device=device)) for a, b in pairwise(sizes)]
    model = [*encoder.parameters(), *basis, *decoder.parameters()]
    adams = [torch.optim.Adam(p, 1e-3, fused=True) for p in (model, list(critic.parameters()))]
    data, eye = batches(images, batch), torch.eye(LATENT_DIM, device=device)

    def sample_noise(n: int) -> Tensor:
        h = torch.randn(m, n, noise, device=device)
        for i, weight in enumerate(basis):
            h = torch.bmm(nn.functional.elu(h) if i else h, weight)
        h = torch.tanh(h.float())
        return (h + 0.5 * torch.randn_like(h)).transpose(0, 1)  # the bounded basis, sampled naively

    def loop(steps: int) -> None:
        for _ in range(steps):
            x = next(data).flatten(1)
            with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
                out = encoder(x).float().view(batch, 1 + m, LATENT_DIM)
                offset, a = out[:, 0], nn.functional.elu(out[:, 1:] - 5) + 1
                v = sample_noise(batch)
                z = offset + (a * v).sum(1)
                with torch.no_grad():
                    all_v = torch.cat([v, sample_noise(draws - batch)])
                    mean = offset + (a * all_v.mean(0)).sum(1)
                    centred = (all_v - all_v.mean(0)).transpose(0, 1)
                    cov = centred.transpose(1, 2).float() @ centred.float() / (draws - 1)
                    cov = (a.unsqueeze(-1) * a.unsqueeze(-2) * cov).sum(1)
                    L = torch.linalg.cholesky(cov + 1e-4 * eye)
                z_bar = torch.linalg.solve_triangular(L, (z - mean).unsqueeze(-1), upper=False).squeeze(-1)
                T = critic(torch.cat([x, z_bar], 1)).float().squeeze(1)
                T_prior = critic(torch.cat([x, torch.randn_like(z)], 1)).float().squeeze(1)
                logits = decoder(z).float()
            log_r = -0.5 * z_bar.square().sum(1) - L.diagonal(dim1=1, dim2=2).log().sum(1)
            nll = binary_cross_entropy_with_logits(logits, x, reduction="sum") / batch
            loss = nll + (T + log_r + 0.5 * z.square().sum(1)).mean()
            contrast = (softplus(-T) + softplus(T_prior)).mean()
            loss.backward(inputs=model, retain_graph=True)
            contrast.backward(inputs=list(critic.parameters()))
            for adam in adams:
                adam.step()
                adam.zero_grad()

    return loop


def plain_loop(recipe: str, like: StepBenchmark, images: Tensor, bf16: bool) -> Loop:
    """Return the README's loop around a method's losses, on networks like those of ``like``, with fused Adam."""
    config, device, batch = resolve(recipe), images.device, like.step.options.batch_size
    method = METHODS.build(config.method)
    model = build_model(config.model, like.step.model.x_shape, method.critics)
    model = model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    updates = like.step.updates
    own = {player: method.parameters(model, player) for player in method.players}
    adams = {player: torch.optim.Adam(p, 1e-3, fused=True) for player, p in own.items()}
    data = (like.preprocess(x) for x in raw_batches(images, batch))

    def loop(steps: int) -> None:
        for players in updates * steps:
            with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
                losses = method.losses(model, next(data), players)
            for player in players:
                loss = losses[player].mean()
                loss.backward(inputs=own[player], retain_graph=player != players[-1])
            for player in players:
                adams[player].step()
                adams[player].zero_grad()

    return loop


def pythae_loop(kind: str, images: Tensor, batch: int) -> Loop | None:
    """Return epochs of pythae's trainer in float32; None if pythae is not installed."""
    try:
        from pythae.data.datasets import BaseDataset
        from pythae.models import VAE, VAE_IAF, VAE_IAF_Config, VAEConfig
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder
        from pythae.trainers import BaseTrainer, BaseTrainerConfig
    except ImportError:
        return None

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(784, *HIDDEN, 2 * LATENT_DIM)

        def forward(self, x: Tensor) -> Any:
            mu, log_var = self.net(x.flatten(1)).chunk(2, 1)
            return ModelOutput(embedding=mu, log_covariance=log_var)

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(LATENT_DIM, *DECODER_HIDDEN, 784)

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=torch.sigmoid(self.net(z)).reshape(-1, *SHAPE))

    common = {"input_dim": SHAPE, "latent_dim": LATENT_DIM}
    models = {
        "vae": lambda: VAE(VAEConfig(**common, reconstruction_loss="bce"), Encoder(), Decoder()),
        "iaf": lambda: VAE_IAF(
            VAE_IAF_Config(
                **common, reconstruction_loss="bce", n_made_blocks=4, n_hidden_in_made=2, hidden_size=320
            ),
            Encoder(),
            Decoder(),
        ),
    }
    count = math.ceil(len(images) / batch) * batch
    data = BaseDataset((images[:count].float() / 255).round(), torch.zeros(count))
    config = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=batch,
        num_epochs=1,
        no_cuda=images.device.type == "cpu",
    )
    trainer = BaseTrainer(model=models[kind](), train_dataset=data, training_config=config)
    trainer.prepare_training()
    trainer.callback_handler.callbacks = []  # no progress bars

    def loop(epochs: int) -> None:
        for _ in range(epochs):
            trainer.train_step(epoch=1)

    loop.images = count  # type: ignore[attr-defined]
    return loop
