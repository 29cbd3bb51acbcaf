"""The errors that reach a user: one sentence that names the value, the reason and the fix."""

from __future__ import annotations


class InterpError(ValueError):
    """Base class of every error that this package raises on purpose."""


class ModelRefusedError(InterpError):
    """The model cannot be opened, for a structural reason that the message names."""


class ModelChangedError(InterpError):
    """The model was changed under a run (a module replaced, a dtype or a device moved)."""


class SiteError(InterpError):
    """A site that does not exist in this model, or that cannot be edited as asked."""


class PromptError(InterpError):
    """A prompt, target or foil that cannot be asked of this model."""


class InterventionError(InterpError):
    """An intervention whose values make no sense (a NaN strength, a vector of the wrong width)."""


class FeatureOffError(InterpError):
    """A feature that a check on attach switched off for this model; the message says which check."""


class ClosedError(InterpError):
    """The session or widget has been closed."""


class CancelledError(Exception):
    """A run was cancelled between two layers or two tokens; never shown as an error."""


class GenerationError(InterpError):
    """Generation settings that make no sense, or a step that cannot go on; the text so far is kept."""


class FileRefusedError(InterpError):
    """A file that is not what it should be; nothing in it was run, and nothing that was loaded before changed."""
