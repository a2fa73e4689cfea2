"""`python -m popcorn.kaggle.processes 2 script.py ...`: torchrun on this machine, with the script's own exit code.

torchrun itself always exits with 1, after a traceback.
"""

import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

if __name__ == "__main__":
    processes, *command = sys.argv[1:]
    try:
        run(parse_args(["--standalone", "--nproc_per_node", processes, *command]))
    except ChildFailedError as problem:
        code = problem.get_first_failure()[1].exitcode
        sys.exit(code if code > 0 else 128 - code)  # a signal's number is negative
