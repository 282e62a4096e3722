"""The packages that draw, as the lock file has them."""

import fcntl
import subprocess
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
LOCK_FILE: Final = FOLDER / "package-lock.json"


def install() -> None:
    """Install them unless they are there; whoever else wants them waits meanwhile."""
    done = FOLDER / "node_modules" / ".package-lock.json"
    with LOCK_FILE.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists() or done.stat().st_mtime < LOCK_FILE.stat().st_mtime:
            subprocess.run(["npm", "ci"], cwd=FOLDER, check=True)
