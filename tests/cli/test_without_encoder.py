"""Verbs on models without an encoder: those that can only be sampled, and those without latents."""

from __future__ import annotations

import pytest

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors"),  # a layer on an empty latent
]
