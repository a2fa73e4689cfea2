"""New processes that need not import the libraries: forks of a server that has imported them and has done nothing else."""

import atexit
import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from multiprocessing import forkserver
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIBRARIES = [
    "accelerate", "bitsandbytes", "gensim.models", "nltk", "pandas", "peft", "scipy.stats", "sklearn.linear_model",
    "sklearn.model_selection", "sklearn.feature_extraction.text", "tensorboard.compat", "torch.utils.tensorboard", "transformers",
    "transformers.models.auto.modeling_auto", "transformers.models.bert.modeling_bert", "transformers.trainer", "tyro",
]  # fmt: skip
"""what the scripts import; never a module of this repository"""
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(LIBRARIES)


class PreloadedProcess:
    """`python <command>`, started with the environment of this process and what is given."""

    def __init__(self, *command: object, cwd: Path = ROOT, stdin: bytes = b"", **variables: str):
        self.command = list(map(str, command))
        self.folder = tempfile.TemporaryDirectory()
        self.streams = [Path(self.folder.name) / name for name in ("stdin", "stdout", "stderr")]
        self.streams[0].write_bytes(stdin)
        self.process = SERVER.Process(
            target=_main, args=(self.command, str(cwd), dict(os.environ) | variables, list(map(str, self.streams)))
        )
        self.process.start()

    def is_running(self) -> bool:
        return self.process.is_alive()

    def kill(self) -> int:
        """Ends it with SIGKILL; its exit code, which is minus the signal's number."""
        self.process.kill()
        return self.wait().returncode

    def wait(self) -> subprocess.CompletedProcess:
        """Its exit code and what it printed."""
        self.process.join()
        printed = [path.read_text(encoding="utf-8") if path.is_file() else "" for path in self.streams[1:]]
        self.folder.cleanup()
        return subprocess.CompletedProcess(self.command, self.process.exitcode, *printed)


def stop_server() -> None:
    """Ends the server, and waits for it, so that its time counts as this process's."""
    forkserver._forkserver._stop()


def _main(command: list[str], cwd: str, environment: dict[str, str], streams: list[str]) -> None:
    """Does in the new process what the interpreter does from its start to its end."""
    for number, path in enumerate(streams):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY), number)
    sys.stdin = os.fdopen(0, encoding="utf-8")
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    is_module = command[0] == "-m"
    sys.argv = command[is_module:]
    own = {"", str(ROOT), str(ROOT / "tests")}
    sys.path[:] = [cwd if is_module else str(Path(sys.argv[0]).resolve().parent), *(path for path in sys.path if path not in own)]
    gc.freeze()  # a collection then takes no longer than without the libraries
    code = 0
    try:
        if is_module:
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    except BaseException:
        code = _exit_code()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _exit_code() -> int:
    """The exit code after the exception that is handled, whose text the interpreter would print."""
    kind, problem, where = sys.exc_info()
    if not isinstance(problem, SystemExit):
        try:
            sys.excepthook(kind, problem, where)
            return 1
        except SystemExit as ended:
            problem = ended
        except BaseException:
            traceback.print_exc()
            return 1
    if problem.code is None or isinstance(problem.code, int):
        return problem.code or 0
    print(problem.code, file=sys.stderr)
    return 1
