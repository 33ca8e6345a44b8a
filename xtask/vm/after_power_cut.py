"""The third boot, after a power cut; and the end of everything."""

import os

import botstead
import network
from botstead import sh, until, until_empty, workspace
from harness import check, setup


@setup
def the_server_comes_back_after_a_power_cut():
    took = botstead.wait_ready()
    botstead.sign_in()
    return f"ready {took:.1f} s after the checks began"


@check
def what_ran_before_the_power_cut_runs_and_has_its_files():
    space = workspace("alpha")
    until("it runs", lambda: space.look()["task_running"])
    assert space.read("/data/synced") == "before the cut"
    until("it reaches beyond", lambda: network.reaches_beyond(space))
    assert not workspace("stopped").look()["task_running"]


@check
def a_version_that_was_answered_outlives_a_power_cut():
    space = workspace("alpha")
    space.write("/data/synced", "after the cut")
    space.rollback(botstead.STATE["cut"])
    assert space.read("/data/synced") == "before the cut"


@check
def a_stopped_workspace_starts_after_two_reboots():
    space = workspace("stopped")
    space.start()
    assert space.read("/data/kept") == "stopped"


@check
def deleted_bots_leave_nothing():
    workspace("alpha")
    for name in list(botstead.STATE["workspaces"]):
        workspace(name).delete()
        del botstead.STATE["workspaces"][name]
    until_empty(left_of_workspaces)


def left_of_workspaces():
    kinds = ["control groups", "mounts", "shims"]
    left = {kind: found for kind, found in botstead.traces().items() if kind in kinds}
    # Where namespaces are mounted is there as long as the installation is.
    left["mounts"] = [mount for mount in left["mounts"] if not mount.endswith("/netns")]
    return {kind: found for kind, found in left.items() if found}


@check
def down_with_purge_leaves_nothing():
    workspace("alpha")
    sh(f"{botstead.XTASK} down --purge --yes")
    left = botstead.traces()
    # Those of the machine itself.
    left["links"] = [link for link in left["links"] if link not in ("lo", "eth0")]
    assert not any(left.values()), left
    assert not os.path.exists(botstead.DATA) and not os.path.exists(botstead.UNIT_FILE)
    rules = sh("nft list ruleset")
    assert "bs-" not in rules and "botstead" not in rules, rules
    assert botstead.containerd() is None
