"""The first boot: a fresh machine, `cargo xtask up`, and everything that needs no reboot."""

import os
import re
import shutil
import time

import botstead
import network
from botstead import sh, until, until_empty, workspace
from harness import check, handover, setup

SMALL = {"limits": {"memory_bytes": 256 << 20, "pids": 64, "cpu_millis": 500}}


@setup
def up_installs_the_server_as_a_unit():
    said = botstead.up()
    shown = re.search(r"password file: (\S+)", said)
    if shown:
        with open(shown.group(1)) as file:
            botstead.STATE["password"] = file.read().strip()
    else:
        botstead.STATE["password"] = re.search(r"password: (\S+)", said).group(1)
    sh("systemctl is-active botstead.service && systemctl is-enabled botstead.service")
    botstead.sign_in()


@check
def the_main_job():
    return sh(f"{botstead.XTASK} up --check", timeout=600).splitlines()[-1]


@check
def the_unit_has_started_only_when_the_server_is_ready():
    sh("systemctl restart botstead.service")
    botstead.is_ready()


@check
def doctor_passes_and_knows_the_kernel():
    said = sh(f"{botstead.DATA}/bin/botstead --config {botstead.DATA}/config.toml doctor")
    line = next(line for line in said.splitlines() if "fanotify" in line)
    has_feed = "Linux 6.5 or newer" not in line
    assert line.split()[0] == "ok" and has_feed == (botstead.kernel() >= (6, 5)), line


# Control groups


@check
def a_workspace_sees_its_own_limits_and_nobody_else():
    other = workspace("alpha")
    space = workspace("small", **SMALL)
    seen = space.out("cd /sys/fs/cgroup; cat /proc/self/cgroup memory.max pids.max cpu.max")
    assert seen.split("\n")[:4] == ["0::/", str(256 << 20), "64", "50000 100000"], seen
    groups = space.out("find /sys/fs/cgroup -mindepth 1 -type d")
    assert groups == "", groups
    assert other.bot not in space.out("cat /proc/self/mountinfo")


@check
def metrics_are_what_the_kernel_counts():
    space = workspace("alpha")
    before = space.metrics()
    space.out("timeout 3 sh -c 'while :; do :; done'; head -c 67108864 /dev/zero > /dev/shm/x")
    low = space.counter("cpu.stat", "usage_usec") * 1000
    after = space.metrics()
    high = space.counter("cpu.stat", "usage_usec") * 1000
    space.out("rm /dev/shm/x")
    assert low <= after["cpu"]["usage_nanoseconds"] <= high, (low, after, high)
    grown = after["memory"]["usage_bytes"] - before["memory"]["usage_bytes"]
    assert (60 << 20) < grown < (96 << 20), grown
    assert str(after["memory"]["limit_bytes"]) == space.limit("memory.max"), after
    assert after["cpu"]["usage_nanoseconds"] - before["cpu"]["usage_nanoseconds"] > 1e9, (before, after)


@check
def memory_is_limited_and_the_workspace_survives():
    space = workspace("small", **SMALL)
    first = space.out("cut -d ' ' -f 22 /proc/1/stat")
    hog = space.run("python3 -c 'x = bytearray(600 << 20)'")
    assert hog["exit_code"] == 137, hog
    assert space.limit("memory.swap.max") == "0"
    assert space.counter("memory.events", "oom_kill") >= 1
    assert space.out("cut -d ' ' -f 22 /proc/1/stat") == first, "PID 1 is another one"


@check
def lack_of_memory_is_told():
    space = workspace("small", **SMALL)
    hog = space.run("python3 -c 'x = bytearray(600 << 20)'")
    assert hog["exit_code"] == 137 and hog.get("oom") is True, hog
    assert space.run("exit 137").get("oom") is not True
    until("the kills are counted", lambda: space.look()["out_of_memory"]["kills"] >= 1)
    counted = re.search(r"^botstead_out_of_memory_kills_total (\d+)$", botstead.raw("GET", "/metrics").decode(), re.M)
    assert counted and int(counted.group(1)) >= 1, counted


@check
def processes_are_limited_and_files_can_be_read_meanwhile():
    space = workspace("small", **SMALL)
    space.write("/data/note", "there")
    bomb = space.run("i=0; while [ $i -lt 200 ]; do sleep 30 & i=$((i+1)); done")
    assert bomb["exit_code"] != 0 and "ork" in bomb["stderr"], bomb
    assert space.counter("pids.events", "max") >= 1
    assert int(space.limit("pids.current")) <= 64
    assert space.read("/data/note") == "there"
    until("the sleepers are gone", lambda: int(space.limit("pids.current")) < 10)


@check
def processor_time_is_limited():
    space = workspace("small", **SMALL)
    used = space.counter("cpu.stat", "usage_usec")
    held = space.counter("cpu.stat", "nr_throttled")
    began = time.monotonic()
    space.out("timeout 4 sh -c 'while :; do :; done' & timeout 4 sh -c 'while :; do :; done'; wait")
    wall = (time.monotonic() - began) * 1e6
    share = (space.counter("cpu.stat", "usage_usec") - used) / wall
    held = space.counter("cpu.stat", "nr_throttled") - held
    # The quota is 0.5; the rest is what a period of 100 ms may run over at both ends.
    assert share < 0.7 and held > 5, (share, held)
    return f"{share:.2f} of a core, stopped {held} times"


@check
def limits_survive_systemd_reloading_and_reexecuting():
    space = workspace("small", **SMALL)
    files = ["memory.max", "pids.max", "cpu.max", "memory.swap.max", "cgroup.controllers"]
    before = [space.limit(file) for file in files]
    sh("systemctl daemon-reload && systemctl daemon-reexec && systemctl daemon-reload")
    assert [space.limit(file) for file in files] == before
    assert space.metrics()["memory"]["limit_bytes"] == 256 << 20


# Snapshots


@check
def a_live_snapshot_is_whole_while_files_change():
    space = workspace("alpha")
    space.out("mkdir -p /data/n && cd /data/n && for i in $(seq 1000); do echo $i > f$i; done")
    space.detach("while :; do date +%s%N >> /data/tick; sleep 0.05; done")
    until("it ticks", lambda: space.run("test -s /data/tick")["exit_code"] == 0)
    sleeper = space.start_sleeper()
    version = space.snapshot(snapshot_name="live")
    assert space.sleeper() == sleeper, "the workspace was restarted"
    assert version["freeze_ms"] >= 0, version
    space.out("cd /data/n && rm f1 && echo changed > f2 && echo new > g1")
    second = space.snapshot(snapshot_name="later")["version"]
    diff = get_diff(space, version["version"], second)
    assert {k: v for k, v in diff.items() if k.startswith("/data/n/")} == {
        "/data/n/f1": "removed",
        "/data/n/f2": "changed",
        "/data/n/g1": "added",
    }, diff
    space.rollback(version["version"])
    assert space.out("cat /data/n/f1 /data/n/f2; ls /data/n | wc -l") == "1\n2\n1000\n"
    ticks = space.out("cat /data/tick").split("\n")
    assert ticks.pop() == "" and sorted(ticks) == ticks and len(ticks) > 1, "a torn file"
    return f"frozen for {version['freeze_ms']} ms"


def get_diff(space, one, two):
    items = botstead.get(f"{space.path}/snapshots/{one}/diff/{two}?limit=100")["items"]
    return {item["path"]: item["change"] for item in items if item["kind"] != "directory"}


@check
def live_snapshots_use_the_change_feed_where_the_kernel_has_it():
    # By the walk on 6.1 and by the feed on 6.12; said once after each start of the server.
    by_feed = "live snapshots find changes by the change feed" in botstead.log()
    by_walk = "live snapshots compare whole trees" in botstead.log()
    assert by_feed == (botstead.kernel() >= (6, 5)) and by_walk != by_feed, (by_feed, by_walk)
    return "the change feed" if by_feed else "the walk"


@check
def a_snapshot_of_a_stopped_moment_and_a_rollback():
    space = workspace("alpha")
    space.write("/data/greeting", "one")
    version = space.snapshot(mode="stop")["version"]
    space.write("/data/greeting", "two")
    space.rollback(version)
    assert space.read("/data/greeting") == "one"


# Kills, restarts, upgrades


@check
def a_killed_server_comes_back_and_workspaces_go_on():
    space = workspace("alpha")
    sleeper, daemon, server = space.start_sleeper(), botstead.containerd(), botstead.main_pid()
    os.kill(server, 9)
    until("another server runs", lambda: botstead.main_pid() not in (0, server))
    took = botstead.wait_ready()
    assert space.sleeper() == sleeper and botstead.containerd() == daemon
    return f"ready after {took:.1f} s"


@check
def a_killed_containerd_comes_back_and_workspaces_go_on():
    space = workspace("alpha")
    sleeper, daemon = space.start_sleeper(), botstead.containerd()
    os.kill(daemon, 9)
    assert space.sleeper() == sleeper, "a command needs the agent alone"
    until("another containerd runs", lambda: botstead.containerd() not in (None, daemon))
    took = botstead.wait_ready()
    until("it makes snapshots", lambda: space.snapshot())
    assert space.sleeper() == sleeper
    assert space.metrics()["memory"]["usage_bytes"] > 0
    return f"ready after {took:.1f} s"


@check
def a_restarted_or_stopped_unit_leaves_workspaces_running():
    space = workspace("alpha")
    sleeper = space.start_sleeper()
    sh("systemctl restart botstead.service")
    botstead.wait_ready()
    assert space.sleeper() == sleeper
    sh("systemctl stop botstead.service")
    assert sh("systemctl show --property Result --value botstead.service").strip() == "success"
    sh("systemctl start botstead.service")
    botstead.wait_ready()
    assert space.sleeper() == sleeper


@check
def an_upgrade_restarts_the_server_and_no_workspace():
    space = workspace("alpha")
    sleeper, server = space.start_sleeper(), botstead.main_pid()
    with open(next_programs() + "/botstead", "ab") as file:
        # It is another program now, and does the same.
        file.write(b"\0")
    botstead.up(NEXT)
    assert botstead.main_pid() != server
    exe = os.readlink(f"/proc/{botstead.main_pid()}/exe")
    assert exe == f"{botstead.DATA}/bin/botstead", exe
    botstead.is_ready()
    assert space.sleeper() == sleeper


@check
def a_changed_unit_restarts_the_server_and_no_workspace():
    space = workspace("alpha")
    botstead.up(next_programs())
    sleeper, server = space.start_sleeper(), botstead.main_pid()
    with open(botstead.UNIT_FILE) as file:
        text = file.read()
    older = text.replace("LimitNOFILE=1048576\n", "LimitNOFILE=65536\n")
    assert older != text
    with open(botstead.UNIT_FILE, "w") as file:
        file.write(older)
    sh("systemctl daemon-reload && systemctl restart botstead.service")
    botstead.wait_ready()
    server = botstead.main_pid()
    botstead.up(NEXT)
    with open(botstead.UNIT_FILE) as file:
        assert file.read() == text
    assert botstead.main_pid() != server, "the server goes on with the older unit's settings"
    assert "1048576" in sh(f"grep 'open files' /proc/{botstead.main_pid()}/limits")
    assert space.sleeper() == sleeper


NEXT = "/var/tmp/next"


def next_programs():
    """A folder of programs that may be changed, with those that are installed at first."""
    if not os.path.exists(NEXT):
        shutil.copytree(botstead.PREBUILT, NEXT)
    return NEXT


# The network


@check
def a_workspace_reaches_beyond_and_neither_host_nor_metadata():
    space = workspace("alpha")
    assert network.reaches_beyond(space)
    with network.Listener() as listener:
        assert not network.connects(space, network.gateway(), listener.port)
        assert not network.connects(space, "169.254.169.254", 80)
        assert not listener.accepted


@check
def a_flushed_firewall_comes_back_at_once():
    space = workspace("alpha")
    return network.open_while(space, lambda: sh("nft flush ruleset"))


@check
def restarting_nftables_cuts_nobody_off():
    space = workspace("alpha")
    return network.open_while(space, lambda: sh("systemctl restart nftables.service"))


@check
def a_firewall_that_drops_later_lets_workspaces_through():
    space = workspace("alpha")
    sh(
        "nft add table inet later && nft 'add chain inet later forward "
        "{ type filter hook forward priority 0; policy drop; }'"
    )
    try:
        took = until("it reaches beyond", lambda: network.reaches_beyond(space), network.SOON)
    finally:
        sh("nft delete table inet later")
    return f"after {took:.1f} s"


@check
def restarting_networkd_harms_nothing():
    space = workspace("alpha")
    before = sh("ip -brief address show type bridge")
    sh("systemctl restart systemd-networkd.service")
    until("the host has its address", lambda: "10.0.2." in sh("ip -brief -4 address show eth0"))
    until("it reaches beyond", lambda: network.reaches_beyond(space), network.SOON)
    assert sh("ip -brief address show type bridge") == before


# The end


@check
def a_deleted_workspace_leaves_nothing():
    workspace("alpha")
    before = botstead.traces()
    gone = botstead.new_workspace("gone")
    gone.write("/data/x", "x")
    gone.snapshot()
    gone.stop()
    gone.start()
    gone.delete()
    until_empty(lambda: botstead.difference(before, botstead.traces()))


@handover
def a_running_and_a_stopped_workspace_wait_for_the_reboot():
    running, stopped = workspace("alpha"), workspace("stopped")
    stopped.write("/data/kept", "stopped")
    stopped.stop()
    running.write("/data/kept", "running")
    botstead.STATE["version"] = running.snapshot(snapshot_name="before the reboot")["version"]
    # Ends well only when it is given the time.
    running.detach(
        "trap 'sleep 1; echo orderly > /data/end; sync; exit 0' TERM; touch /data/waits; "
        "while :; do sleep 0.1; done"
    )
    until("it waits", lambda: running.run("test -e /data/waits")["exit_code"] == 0)
