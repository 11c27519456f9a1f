"""Why a service does not enter FIPS mode, or leaves it by ending."""

from __future__ import annotations

from provledger.errors import ProvledgerError
from provledger.settings import ConfigError


class FIPSConfigError(ConfigError):
    """FIPS mode was asked for and cannot be had here; the message says what to install or set."""


class FIPSAssertionError(ProvledgerError):
    """A libcrypto of this process does not do its work in the FIPS provider."""


class FIPSSelfTestError(ProvledgerError):
    """A known-answer or pairwise test gave a wrong answer; `test` is its name."""

    def __init__(self, test: str, message: str) -> None:
        super().__init__(f"{test}: {message}")
        self.test = test
