"""A simulated Kaggle: read-only input, a new working folder for every session, and nothing of the repository."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from popcorn.kaggle.kernel import write_kernel

LAYOUTS = {  # where the competition and a notebook's output are mounted
    "new": ("competitions/word2vec-nlp-tutorial", "notebooks/somebody"),
    "old": ("word2vec-nlp-tutorial", ""),
}


def set_read_only(folder: Path, is_read_only: bool = True) -> None:
    """Kaggle mounts its input so."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod((0o555 if path.is_dir() else 0o444) if is_read_only else 0o755)


class Session:
    """Sessions of one kernel, one after another; each can have the last one's output as its input."""

    def __init__(self, folder: Path, competition: Path, layout: str = "new"):
        self.folder, self.input = folder, folder / "kaggle" / "input"
        mount, self.outputs = LAYOUTS[layout]
        shutil.copytree(competition, self.input / mount)
        set_read_only(self.input / mount)
        self.number = 0

    @property
    def working(self) -> Path:
        """The working folder of the last session."""
        return self.folder / f"working-{self.number}"

    def run(
        self, name: str, options: list = (), *, scripts: str | None = None, continues: bool = False, seconds: float = 3_600,
        processes: int = 1,
    ) -> subprocess.CompletedProcess:  # fmt: skip
        """Makes the kernel, and runs it in a new session of `seconds`."""
        kernels = self.folder / "kernels"
        write_kernel(name, kernels, "somebody", shlex.join(map(str, options)), scripts=scripts, continues=continues)
        if continues:
            self.attach_output(f"popcorn-{name.replace('_', '-')}")
        self.number += 1
        self.working.mkdir()
        alone = self.folder / f"src-{self.number}" / "script.py"
        alone.parent.mkdir()
        shutil.copy(kernels / name / f"{name}.py", alone)
        variables = {
            "KAGGLE_KERNEL_RUN_TYPE": "Batch", "KAGGLE_CACHE_MOUNT_FOLDER": str(self.input), "HF_HUB_OFFLINE": "1",
            "POPCORN_SESSION_END": str(time.time() + seconds), "POPCORN_PROCESSES": str(processes), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        return subprocess.run(
            [sys.executable, alone], cwd=self.working, env=os.environ | variables, capture_output=True, text=True
        )

    def attach_output(self, kernel: str) -> None:
        """Makes the last session's output an input, as `kernel_sources` does."""
        target = self.input / self.outputs / kernel
        if target.is_dir():
            set_read_only(target, False)
            shutil.rmtree(target)
        shutil.copytree(self.working, target)
        set_read_only(target)

    def submissions(self, name: str) -> list[bytes]:
        """Both submissions of the last session."""
        return [(self.working / "submissions" / f"{name}{kind}.csv").read_bytes() for kind in ("", ".proba")]
