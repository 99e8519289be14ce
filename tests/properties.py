"""How many examples the properties are tried on."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import HealthCheck, settings

USUAL = 100  # examples of a property that names no number of its own


def load_profiles() -> None:
    """The same examples for everybody and in every run; others, and twenty times as many, only on request.

    `pytest --hypothesis-profile thorough --hypothesis-seed 1` is the request: the option is looked at after the
    conftest files that load the usual profile. No profile has a deadline, and none complains about a slow machine.
    """
    timeless = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
    settings.register_profile("same", max_examples=USUAL, derandomize=True, **timeless)
    settings.register_profile("thorough", max_examples=20 * USUAL, derandomize=False, **timeless)
    settings.load_profile("same")


def examples(number: int, also_suppress: Sequence[HealthCheck] = ()) -> settings:
    """So many examples in the place of the usual hundred; a profile of more takes more of these in proportion."""
    profile = settings()
    share = max(1, number * profile.max_examples // USUAL)
    return settings(
        max_examples=share, suppress_health_check=[*profile.suppress_health_check, *also_suppress]
    )
