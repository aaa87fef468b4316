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
    # other programs
    "bs": ("batch_size",),
    "cpu": ("device",),
    "cuda": ("device",),
    "data": ("source",),
    "data_dir": ("source",),
    "dataset": ("source",),
    "epochs": ("steps",),
    "gpu": ("device",),
    "gpus": ("device",),
    "iterations": ("steps",),
    "iters": ("steps",),
    "latent_size": ("latent_dim",),
    "latents": ("latent_dim",),
    "learning_rate": ("lr",),
    "max_steps": ("steps",),
    "num_samples": ("n",),
    "num_workers": ("workers",),
    "output": ("out",),
    "output_dir": ("out",),
    "z_dim": ("latent_dim",),
}


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


def _leaf(name: str) -> str:
    """Return a name without dashes before it and without its section."""
    return name.lstrip("-").rpartition(".")[2].replace("-", "_")
