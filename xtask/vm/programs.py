"""The test programs of the crates that know the host. Each is one check."""

import glob
import os
import re
import signal
import subprocess

from harness import RESULTS, Check

LIMIT_SECONDS = 1500


def run(path):
    """Runs one program, and says which of its tests failed."""
    name = os.path.basename(path)
    environment = dict(
        os.environ,
        BOTSTEAD_TEST_AGENT="/payload/prebuilt/botstead-agent",
        BOTSTEAD_TEST_IMAGE=glob.glob("/payload/prebuilt/*.oci.tar")[0],
        TMPDIR="/var/tmp",
    )
    log = f"{RESULTS}/{name}.log"
    with open(log, "w") as file:
        program = subprocess.Popen(
            # What a test says is there also where the program has to be ended.
            [path, "--test-threads=2", "--nocapture"],
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
        )
        try:
            code = program.wait(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(program.pid, signal.SIGKILL)
            program.wait()
            code = f"none within {LIMIT_SECONDS} s"
    with open(log, errors="replace") as file:
        text = file.read()
    passed = len(re.findall(r"\.\.\. ok$", text, re.MULTILINE))
    failed = sorted(set(re.findall(r"^    (\S+)$|^test (\S+) \.\.\. FAILED$", text, re.MULTILINE)))
    failed = sorted({one or two for one, two in failed})
    assert code == 0, f"exit code {code}; {passed} passed; failed: {' '.join(failed) or 'none told'}"
    return f"{passed} passed"


def _check(path):
    check = Check(lambda: run(path), "check", LIMIT_SECONDS + 60)
    check.name = "tests of " + os.path.basename(path)
    return check


CHECKS = [_check(path) for path in sorted(glob.glob("/payload/tests/*"))]
