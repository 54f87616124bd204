"""What holds for all tests: a busy machine fails none of them."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Hypothesis' own limits are on time: of one example, and of making the first ones.
settings.register_profile(
    "no times",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("no times")
