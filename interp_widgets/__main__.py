"""`python -m interp_widgets demo`: JupyterLab on a fresh copy of the tour."""

from __future__ import annotations

import sys

from interp_widgets.demo import main

if __name__ == "__main__":
    sys.exit(main())
