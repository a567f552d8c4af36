"""Runs scripts in processes forked from this one, which has imported their libraries already.

Importing them takes longer than most tests. Reads a line of JSON for each script, runs it to its
end and answers with its exit code.
"""

import importlib
import json
import os
import runpy
import sys

from wandb.sdk.data_types._private import MEDIA_TMP

for module in ("skseg.commands.fit", "skseg.commands.evaluate"):
    importlib.import_module(module)

for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    os.makedirs(MEDIA_TMP.name, exist_ok=True)  # the first child that ends removes it
    os.environ.clear()
    os.environ.update(job["environment"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(job["stdout"], os.O_WRONLY | os.O_CREAT), 1)
    os.dup2(os.open(job["stderr"], os.O_WRONLY | os.O_CREAT), 2)
    sys.argv = job["command"]
    runpy.run_path(sys.argv[0], run_name="__main__")
    break  # the end of this process is the script's
