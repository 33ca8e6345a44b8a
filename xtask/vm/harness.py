"""What a check is, and how its end is told to the host.

A check is a function; its name says what holds, and it fails by an exception. Checks run in the order
in which they stand in their file. With `cargo xtask test --vm -- NAME` only those run whose names
contain NAME, so a check makes what it needs by itself: `botstead.workspace("alpha")` gives the one
that is there or makes it.
"""

import json
import os
import signal
import sys
import time
import traceback

RESULTS = "/payload/results"
STATE = RESULTS + "/state.json"
LINES = "/dev/ttyS1"
LIMIT_SECONDS = 900


class Check:
    def __init__(self, function, kind, limit):
        self.function = function
        self.kind = kind
        self.limit = limit
        self.name = function.__name__.replace("_", " ")


def _register(function, kind, limit=LIMIT_SECONDS):
    module = sys.modules[function.__module__]
    if not hasattr(module, "CHECKS"):
        module.CHECKS = []
    module.CHECKS.append(Check(function, kind, limit))
    return function


def check(function):
    """Something that must hold. What it returns, if anything, is shown beside its name."""
    return _register(function, "check")


def setup(function):
    """A check without which nothing of this boot can be checked: it runs whatever was asked for."""
    return _register(function, "setup")


def handover(function):
    """What later boots find. It runs when one of their checks does."""
    return _register(function, "handover")


def tell(**line):
    """A line for the host, which shows it at once."""
    with open(LINES, "w") as lines:
        lines.write(json.dumps(line) + "\n")


class Overdue(Exception):
    pass


def _overdue(_signal, _frame):
    raise Overdue("it took too long")


def run(check):
    """Runs one check, tells how it ended, and whether well."""
    print("=== " + check.name, flush=True)
    began = time.monotonic()
    signal.signal(signal.SIGALRM, _overdue)
    signal.alarm(check.limit)
    try:
        detail, ok = check.function(), True
    except Exception as error:
        traceback.print_exc(file=sys.stdout)
        place = traceback.extract_tb(error.__traceback__)[-1]
        at = f"{os.path.basename(place.filename)}:{place.lineno}"
        detail, ok = f"{at}: {place.line}\n{type(error).__name__}: {error}", False
    finally:
        signal.alarm(0)
    tell(
        name=check.name,
        ok=ok,
        seconds=round(time.monotonic() - began),
        detail=str(detail or "")[:3000],
    )
    return ok


def load_state():
    try:
        with open(STATE) as file:
            return json.load(file)
    except FileNotFoundError:
        return {"boot": 0, "workspaces": {}}


def save_state(state):
    """Survives a power cut."""
    with open(STATE + ".new", "w") as file:
        json.dump(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(STATE + ".new", STATE)
    folder = os.open(RESULTS, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
