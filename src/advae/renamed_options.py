"""Former names of options and option values, for error messages.

The former spelling is not accepted; an error names the current one. A former name that stands for several options is
resolved by which of them exists where it was used.
"""

from __future__ import annotations

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
}


def current_name(name: str, known: list[str]) -> str | None:
    """Return the known name that replaced ``name``, with the same dashes or section; None if there is none.

    >>> current_name("train.rate", ["train.steps", "train.lr"]), current_name("--draws", ["--elbo-samples"])
    ('train.lr', '--elbo-samples')
    >>> current_name("grey", ["gray"]), current_name("rate", ["steps"])
    ('gray', None)
    """
    start = 2 if name.startswith("--") else name.rfind(".") + 1
    prefix, leaf = name[:start], name[start:]
    for former in (leaf, leaf.replace("-", "_")):
        for new in RENAMED_OPTIONS.get(former, ()):
            for spelling in (prefix + new, prefix + new.replace("_", "-")):
                if spelling in known:
                    return spelling
    return None
