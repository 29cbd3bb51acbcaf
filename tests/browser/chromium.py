"""Finds a Chrome or Chromium on this machine; as a program, installs Debian's `chromium` where there is none.

Only the standard library is needed: `make test` runs it before anything else is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("google-chrome", "google-chrome-stable", "chromium", "chromium-browser", "chrome")
MAC = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
ADVICE = (
    "No Chrome or Chromium was found and it could not be installed here; install one "
    "(Debian: `apt-get install chromium`), or name it in the environment variable IW_CHROME."
)


def find() -> Path | None:
    """The browser that the tests drive: `IW_CHROME`, else the first known name on the PATH, else None."""
    if named := os.environ.get("IW_CHROME"):
        return Path(named)
    for name in NAMES:
        if found := shutil.which(name):
            return Path(found)
    return next((path for path in map(Path, MAC) if path.exists()), None)


def install() -> None:
    """Install Debian's `chromium` through apt, as root or through a sudo that asks nothing; quiet where it cannot."""
    apt = shutil.which("apt-get")
    if apt is None:
        return
    front = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    if front and shutil.which("sudo") is None:
        return
    print("installing chromium through apt", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", "chromium", "fonts-dejavu-core"]):
        done = subprocess.run([*front, apt, "-qq", *arguments], env=environment, stdout=subprocess.DEVNULL, check=False)
        if done.returncode != 0 and "install" in arguments:
            return


def main() -> int:
    """Have a browser, or say in one sentence what to install."""
    if find() is None:
        install()
    found = find()
    if found is None or not found.exists():
        print(ADVICE, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
