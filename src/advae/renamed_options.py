"""Former names of options and option values, and names that other programs use, for error messages.

Only the current name is accepted; an error states it. A name that stands for several options is resolved by which of
them exists where it was used.
"""

from __future__ import annotations

from collections.abc import Iterable

RENAMED_OPTIONS: dict[str, tuple[str, ...]] = {
    # training
    "accumulate": ("accumulation_steps",),
    "batch": ("batch_size", "samples_per_step"),
    "clip": ("grad_clip",),
    "critic_rate": ("critic_lr",),
    "ema": ("ema_decay",),
    "graph": ("cuda-graph",),
    "keep_every": ("checkpoint_keep_every",),
    "order": ("update_order",),
    "rate": ("lr",),
    "schedule": ("lr_schedule",),
    "skip": ("max_skipped_steps",),
    "step": ("backend",),
    "warmup": ("lr_warmup",),
    # data
    "binarise_seed": ("binarize_seed",),
    "binarise-dynamic": ("binarize-dynamic",),
    "binarise-static": ("binarize-static",),
    "dequantise": ("dequantize",),
    "grey": ("gray",),
    "protocol": ("preprocessing",),
    "standardise": ("standardize",),
    # components
    "autoregressive-logistics": ("logistic-mixture",),
    "blocks": ("num_blocks",),
    "discretised-normal": ("discretized-normal",),
    "functions": ("num_basis",),
    "groups": ("stages",),
    "kernel": ("kernel_size",),
    "latent": ("latent_dim",),
    "length": ("num_layers",),
    "mixtures": ("num_components",),
    "near_zero": ("zero_init",),
    "noise": ("noise_dim",),
    "normal": ("smoothing_std",),
    "own": ("passthrough",),
    "scales": ("num_scales",),
    "smallest": ("min_size",),
    "width": ("base_channels",),
    # evaluation
    "checks": ("diagnostics",),
    "copying": ("memorization",),
    "draw": ("stochastic",),
    "draws": ("elbo_samples",),
    "features": ("feature_extractor",),
    "generated": ("num_samples",),
    "importance": ("iwae_samples",),
    "neighbours": ("nearest-neighbors",),
    "simulated": ("bdmc_images",),
    "start": ("ais_init",),
    # inference
    "minibatch": ("minibatch_size",),
    "temper": ("initial_power",),
    # other programs, and short forms
    "amp": ("precision",),
    "bs": ("batch_size",),
    "columns": ("label",),
    "count": ("n",),
    "cpu": ("device",),
    "csv": ("source", "format"),
    "cuda": ("device",),
    "data": ("source",),
    "data_dir": ("source",),
    "data_path": ("source",),
    "dataset": ("source",),
    "dir": ("source",),
    "duration": ("time",),
    "embedding_dim": ("latent_dim",),
    "epoch": ("steps",),
    "epochs": ("steps",),
    "file": ("source",),
    "folder": ("source",),
    "fp16": ("precision",),
    "gaussian": ("normal",),
    "gpu": ("device",),
    "gpus": ("device",),
    "hidden_dim": ("hidden",),
    "hidden_dims": ("hidden",),
    "images": ("source",),
    "input": ("source",),
    "iter": ("steps",),
    "iterations": ("steps",),
    "iters": ("steps",),
    "latent_size": ("latent_dim",),
    "latents": ("latent_dim",),
    "layers": ("hidden",),
    "learning_rate": ("lr",),
    "loss": ("method",),
    "max_steps": ("steps",),
    "max_time": ("time",),
    "minutes": ("time",),
    "mixed_precision": ("precision",),
    "name": ("out",),
    "num": ("n",),
    "num_epochs": ("steps",),
    "num_samples": ("n",),
    "num_workers": ("workers",),
    "o": ("out",),
    "optimizer": ("lr",),
    "output": ("out",),
    "output_dir": ("out",),
    "path": ("source",),
    "random_state": ("seed",),
    "s": ("seed",),
    "save": ("out",),
    "target": ("label",),
    "threads": ("workers",),
    "train_data": ("source",),
    "train_steps": ("steps",),
    "weights": ("resume",),
    "z": ("latent_dim",),
    "z_dim": ("latent_dim",),
    "z_size": ("latent_dim",),
    "zdim": ("latent_dim",),
}

NOTES: dict[str, str] = {
    "amp": "bf16 or fp32",
    "epoch": "steps = epochs × examples / batch size",
    "epochs": "steps = epochs × examples / batch size",
    "fp16": "bf16 or fp32",
    "max_time": "such as 10m",
    "minutes": "such as 10m",
    "num_epochs": "steps = epochs × examples / batch size",
    "optimizer": "the optimizer is Adam",
    "threads": "of data loading; the environment variable OMP_NUM_THREADS sets those of PyTorch",
}
"""How a value of another program's option is converted, by its name."""


def current_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is meant by ``name``, in the same section if that exists; None if there is none.

    >>> current_name("train.rate", ["train.steps", "train.lr"]), current_name("--draws", ["--elbo-samples"])
    ('train.lr', '--elbo-samples')
    >>> current_name("--epochs", ["--train.steps"]), current_name("grey", ["gray"]), current_name("rate", ["steps"])
    ('--train.steps', 'gray', None)
    """
    leaf = _leaf(name)
    section = name.lstrip("-")[: -len(leaf) or None]
    known = [k for k in known if k.lstrip("-").startswith(section)] or list(known)
    meant = (k for new in (*RENAMED_OPTIONS.get(leaf, ()), leaf) for k in known if _leaf(k) == _leaf(new))
    return next(meant, None)


def conversion_note(name: str) -> str:
    """Return how the value of another program's option is converted; empty if it is not.

    >>> conversion_note("--epochs")
    'steps = epochs × examples / batch size'
    """
    return NOTES.get(_leaf(name), "")


def _leaf(name: str) -> str:
    """Return a name without dashes before it and without its section."""
    return name.lstrip("-").rpartition(".")[2].replace("-", "_")
