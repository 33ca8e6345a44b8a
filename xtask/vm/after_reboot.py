"""The second boot, after an orderly reboot."""

import botstead
import network
from botstead import until, workspace
from harness import check, setup


@setup
def the_server_comes_back_after_a_reboot():
    took = botstead.wait_ready()
    botstead.sign_in()
    return f"ready {took:.1f} s after the checks began"


@check
def what_ran_before_the_reboot_runs():
    space = workspace("alpha")
    until("it runs", lambda: space.look()["task_running"])
    assert space.read("/data/kept") == "running"


@check
def what_was_stopped_before_the_reboot_stays_stopped():
    workspace("alpha").out("true")
    seen = workspace("stopped").look()
    assert not seen["task_running"] and seen["status"] == "stopped", seen


@check
def workspaces_were_stopped_before_the_host_unmounted():
    assert workspace("alpha").read("/data/end") == "orderly\n"
    said = botstead.sh("journalctl --boot -1 --no-pager -o cat")
    torn = [line for line in said.splitlines() if line.startswith("Unmounting") and "rootfs" in line]
    assert not torn, torn


@check
def network_and_limits_are_there_after_the_reboot():
    space = workspace("alpha")
    until("it reaches beyond", lambda: network.reaches_beyond(space))
    with network.Listener() as listener:
        assert not network.connects(space, network.gateway(), listener.port)
    assert space.metrics()["memory"]["limit_bytes"] == int(space.limit("memory.max")) > 0


@check
def a_workspace_goes_back_to_before_the_reboot():
    space = workspace("alpha")
    space.write("/data/kept", "later")
    space.rollback(botstead.STATE["version"])
    assert space.read("/data/kept") == "running"


@check
def what_is_synced_waits_for_the_power_cut():
    space = workspace("alpha")
    space.write("/data/synced", "before the cut")
    space.out("sync /data/synced /data")
    botstead.STATE["cut"] = space.snapshot(snapshot_name="before the cut")["version"]
