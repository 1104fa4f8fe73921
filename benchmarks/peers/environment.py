"""The peers' environment: build/peers/venv, apart from the project's own."""

import hashlib
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
WITH_DEPENDENCIES, ALONE = HERE / "requirements-peers.txt", HERE / "requirements-alone.txt"


def peers_python(build: Path) -> Path:
    """The interpreter of the peers' environment, which is made first if it is missing or out of date."""
    venv = build / "venv"
    python, stamp = venv / "bin" / "python", venv / ".ready"
    wanted = hashlib.sha256(WITH_DEPENDENCIES.read_bytes() + ALONE.read_bytes()).hexdigest()
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"==> Setting up {venv}: the peers, as requirements-*.txt have them (a few minutes, once)", flush=True)
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", str(WITH_DEPENDENCIES)], check=True)
        subprocess.run([*pip, "--no-deps", "-r", str(ALONE)], check=True)
        stamp.write_text(wanted)
    return python
