"""Runs at every boot of a machine of `cargo xtask test --vm`, as a unit: the checks of this boot, and
then the way to the next one."""

import json
import os
import platform
import subprocess
import sys

import after_power_cut
import after_reboot
import before_reboot
import botstead
import harness
import programs


def reboot():
    subprocess.run(["systemctl", "reboot"], check=True)


def cut_power():
    """As if: nothing is written back, nobody is told."""
    with open("/proc/sysrq-trigger", "w") as trigger:
        trigger.write("b")


def power_off():
    subprocess.run(["systemctl", "poweroff"], check=True)


# The checks of each boot, and how it ends when there is another one.
BOOTS = [
    (before_reboot.CHECKS, reboot),
    (after_reboot.CHECKS, cut_power),
    (after_power_cut.CHECKS + programs.CHECKS, power_off),
]


def chosen(checks, filters):
    """The checks that were asked for."""
    return [c for c in checks if c.kind == "check" and (not filters or any(f in c.name for f in filters))]


def main():
    with open("/payload/settings.json") as file:
        filters = json.load(file)["filters"]
    state = botstead.STATE
    state["boot"] += 1
    boot = state["boot"]
    harness.save_state(state)
    harness.tell(boot=boot, kernel=platform.release())
    checks, leave = BOOTS[boot - 1]
    later = any(chosen(more, filters) for more, _ in BOOTS[boot:])
    mine = chosen(checks, filters)
    usable = True
    for check in checks:
        wanted = check in mine or check.kind == "setup" or (check.kind == "handover" and later)
        if wanted and not harness.run(check) and check.kind != "check":
            # Everything after this would only fail for the same reason.
            usable = False
            break
    harness.save_state(state)
    with open(f"{harness.RESULTS}/journal-{boot}.log", "w") as journal:
        subprocess.run(["journalctl", "--boot", "--no-pager", "-o", "short-monotonic"], stdout=journal)
    botstead.keep_logs(boot)
    subprocess.run(["sync", "--file-system", harness.RESULTS], check=True)
    if usable and later:
        leave()
        return
    if usable:
        harness.tell(finished=True)
    power_off()


try:
    main()
except BaseException:
    harness.tell(name="the checks' own program", ok=False, seconds=0, detail=repr(sys.exc_info()[1]))
    os.sync()
    power_off()
    raise
