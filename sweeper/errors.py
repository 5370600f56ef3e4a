"""Errors that leave a trial out instead of failing a sweep."""

from __future__ import annotations


class NotApplicableError(ValueError):
    """A strategy, a model and a task that make no sense together, whatever the settings."""


class UnavailableError(NotApplicableError):
    """Something that is needed is not here: a package, weights, a device. The message says how to get it."""
