"""The server and the browser of the soak, and how long it lasts."""

from __future__ import annotations

from tests.browser.conftest import chromium, lab

__all__ = ["chromium", "lab"]
