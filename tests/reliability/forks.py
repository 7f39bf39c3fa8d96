"""Commands as processes of their own that need no start: a server that has imported all forks one for each request.

It reads a JSON object a line: `arguments`, and `limit`, the most bytes that a file may have. It answers with the
process's id, and once that ends with its status and what it said.
"""

import json
import os
import resource
import signal
import sys
import traceback

import scipy.stats  # noqa: F401
import sklearn.metrics  # noqa: F401
import torch

import graftlm.recipes.fit
import graftlm.recipes.predict  # noqa: F401
from graftlm.checkpoint import load_base
from graftlm.cli.main import code


def main() -> None:
    torch.set_num_threads(1)
    load_base(sys.argv[1])  # imports what it needs
    say("ready")
    for line in sys.stdin:
        request = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            work(request, writing)
        os.close(writing)
        say(child)
        with os.fdopen(reading) as pipe:
            said = pipe.read()
        say([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said])


def work(request: dict, writing: int) -> None:
    found = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has background jobs ignore it
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        if request["limit"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], resource.RLIM_INFINITY))
        found = code(request["arguments"])
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(found)


def say(word: object) -> None:
    sys.stdout.write(json.dumps(word) + "\n")
    sys.stdout.flush()


main()
