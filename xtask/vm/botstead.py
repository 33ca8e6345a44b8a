"""The server as the checks see it: over HTTP, through systemd, and in the kernel's files."""

import glob
import json
import os
import platform
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request

import harness

URL = "http://127.0.0.1:8787"
DATA = "/var/lib/botstead"
SNAPSHOTS = DATA + "/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"
UNIT = "botstead.service"
UNIT_FILE = "/etc/systemd/system/botstead.service"
XTASK = "/payload/xtask"
PREBUILT = "/payload/prebuilt"
CGROUPS = "/sys/fs/cgroup"
# One that everything answers within, on an emulated machine that shares its processors.
PATIENCE = 120

STATE = harness.load_state()


def kernel():
    """Such as (6, 12)."""
    return tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])


def sh(line, timeout=300):
    """What a shell line of the host prints. It must succeed."""
    done = subprocess.run(
        ["bash", "-c", line], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, text=True
    )
    # The console is slow, and shows the rest nobody.
    print(f"$ {line}\n{done.stdout[:2000]}", flush=True)
    assert done.returncode == 0, f"{line}: exit code {done.returncode}: {done.stdout[-2000:]}"
    return done.stdout


def until(what, holds, patience=PATIENCE):
    """Waits until something holds, and gives how long that took."""
    began = time.monotonic()
    seen = None
    while time.monotonic() - began < patience:
        try:
            seen = holds()
            if seen:
                return time.monotonic() - began
        except (OSError, Refused) as error:
            seen = error
        time.sleep(0.2)
    raise AssertionError(f"{patience} s passed, and still not: {what} (last: {seen})")


def until_empty(rest, patience=PATIENCE):
    """Waits until nothing is left, and says what is."""
    seen = [None]

    def is_empty():
        seen[0] = rest()
        return not seen[0]

    try:
        return until("nothing is left", is_empty, patience)
    except AssertionError as error:
        raise AssertionError(f"{error}: {seen[0]}") from None


# Over HTTP


class Refused(Exception):
    def __init__(self, status, text):
        super().__init__(f"{status} {text[:1500]}")
        self.status = status


def raw(method, path, body=None, timeout=600):
    """The bytes of an answer."""
    headers = {}
    if "token" in STATE:
        headers["Authorization"] = "Bearer " + STATE["token"]
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
    request = urllib.request.Request(URL + path, data=data, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        raise Refused(error.code, error.read().decode(errors="replace")) from None


def call(method, path, body=None, timeout=600):
    """The JSON of an answer."""
    text = raw(method, path, body, timeout)
    return json.loads(text) if text else None


def get(path):
    return call("GET", path)


def post(path, body=None):
    return call("POST", path, {} if body is None else body)


def is_ready():
    get("/readyz")
    return True


def wait_ready():
    return until("the server is ready", is_ready)


def sign_in():
    STATE.pop("token", None)
    body = {"username": "admin", "password": STATE["password"]}
    STATE["token"] = post("/auth/login", body)["access_token"]


# Workspaces


class Workspace:
    def __init__(self, bot):
        self.bot = bot
        self.path = f"/bots/{bot}/container"

    def look(self):
        return get(self.path)

    def start(self):
        return post(self.path + "/start")

    def stop(self):
        return post(self.path + "/stop")

    def snapshot(self, **body):
        return post(self.path + "/snapshots", body)

    def rollback(self, version):
        return post(self.path + "/snapshots/rollback", {"version": version})

    def metrics(self):
        return get(self.path + "/metrics")["metrics"]

    def run(self, line, timeout=300):
        """The reply to a shell line."""
        reply = post(self.path + "/exec", {"command": line, "timeout_seconds": timeout})
        print(f"{self.bot[:8]}$ {line}\n{json.dumps(reply)[:3000]}", flush=True)
        return reply

    def out(self, line, timeout=300):
        """What a shell line prints. It must succeed."""
        reply = self.run(line, timeout)
        assert reply["exit_code"] == 0, f"{line}: {reply}"
        return reply["stdout"]

    def detach(self, line):
        """A shell line that goes on without a client."""
        return post(self.path + "/exec", {"command": line, "detach": True})

    def write(self, path, content):
        return post(self.path + "/fs/write", {"path": path, "content": content})

    def read(self, path):
        return get(f"{self.path}/fs/read?path={path}")["content"]

    def delete(self):
        """The bot and all that it has."""
        call("DELETE", f"/bots/{self.bot}")

    def cgroup(self):
        """Its control group, as the host sees it."""
        container = self.look()["container_id"]
        found = glob.glob(f"{CGROUPS}/botstead-*/{container}")
        assert len(found) == 1, f"control groups of {container}: {found}"
        return found[0]

    def limit(self, file):
        """A file of its control group."""
        with open(os.path.join(self.cgroup(), file)) as opened:
            return opened.read().strip()

    def counter(self, file, key):
        """A number of such a file, by its name."""
        return int(re.search(rf"^{key} (\d+)$", self.limit(file), re.MULTILINE).group(1))

    def sleeper(self):
        """The process that shows whether the workspace went on: its id and when it began."""
        return self.out("for p in $(pgrep -x sleeper); do cut -d ' ' -f 1,22 /proc/$p/stat; done").strip()

    def start_sleeper(self):
        """Gives what `sleeper` says as long as that process lives."""
        if not self.sleeper():
            self.detach("cp /bin/sleep /tmp/sleeper; exec /tmp/sleeper 1000000")
            until("the process runs", self.sleeper)
        return self.sleeper()


def new_workspace(name, **body):
    """Makes a bot and its container, and waits until that runs."""
    space = Workspace(post("/bots", {"name": name})["id"])
    stream = raw("POST", space.path, body).decode()
    events = [json.loads(line[5:]) for line in stream.splitlines() if line.startswith("data:")]
    assert events and events[-1]["type"] == "complete", f"{name}: {stream[-1500:]}"
    return space


def workspace(name, **body):
    """The workspace of this name, which is made when it is asked for the first time."""
    if name not in STATE["workspaces"]:
        STATE["workspaces"][name] = new_workspace(name, **body).bot
    return Workspace(STATE["workspaces"][name])


# The host


def main_pid():
    return int(sh(f"systemctl show --property MainPID --value {UNIT}"))


def up(folder=PREBUILT):
    return sh(f"{XTASK} up --prebuilt {folder}", timeout=800)


def processes(program, word):
    """Ids of the processes of this program, to whose command line this word belongs."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                words = file.read().decode(errors="replace").split("\0")
        except OSError:
            continue
        if os.path.basename(words[0]) == program and any(word in argument for argument in words):
            found.append(int(path.split("/")[2]))
    return found


def containerd():
    """The id of the server's own containerd; the host has another one."""
    found = processes("containerd", "/run/botstead/")
    return found[0] if found else None


def traces():
    """All that workspaces leave on a host."""
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split(" ")[4] for line in file]
    return {
        "control groups": sorted(glob.glob(f"{CGROUPS}/botstead-*/*/")),
        "links": sorted(os.listdir("/sys/class/net")),
        "mounts": sorted(m for m in mounts if "botstead" in m or "/netns/" in m),
        "shims": sorted(processes("containerd-shim-runc-v2", "/run/botstead/")),
        "snapshots": sorted(glob.glob(f"{SNAPSHOTS}/*")),
    }


def difference(before, now):
    """What is there of each kind that was not, and the other way round."""
    return {kind: sorted(set(before[kind]) ^ set(now[kind])) for kind in before if before[kind] != now[kind]}


def log(boot=0):
    """What the server said in this boot, or in one before."""
    return sh(f"journalctl --boot {boot} --unit {UNIT} --no-pager -o cat")


def keep_logs(boot):
    """For whoever looks for the reason of a failure."""
    for name in ["containerd.log"]:
        path = os.path.join(DATA, name)
        if os.path.exists(path):
            shutil.copy(path, f"{harness.RESULTS}/{boot}-{name}")
