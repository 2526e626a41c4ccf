"""Settings for all tests: Hypothesis draws the same examples on each run; HYPOTHESIS_PROFILE=deep draws more."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

os.environ["ATMO_BRIDGE"] = "0"  # nodes of tests leave the caches of whoever runs them alone
os.environ["ATMO_LLAMAFARM_CONFIG"] = "0"

settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,  # the machine may be busy; no test asserts timings
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("deep", settings.get_profile("repeatable"), derandomize=False, max_examples=5_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
