"""The version of the package: the one source that the build, the front end and the state message read."""

__version__ = "0.1.0"
