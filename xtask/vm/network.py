"""What a workspace reaches, and when."""

import json
import socket
import threading
import time

import botstead

# Sooner than the round in which the server looks at the host's network anyway, every minute.
SOON = 20

# Beyond the machine's NAT: QEMU answers here, nothing else exists.
BEYOND = ("10.0.2.100", 1234)


def connects(space, address, port):
    """Whether a workspace can connect."""
    line = f"""python3 -c '
import socket, sys
try: socket.create_connection(("{address}", {port}), 3)
except OSError: sys.exit(9)'"""
    code = space.run(line)["exit_code"]
    assert code in (0, 9), code
    return code == 0


def reaches_beyond(space):
    return connects(space, *BEYOND)


def gateway():
    """The host's address on the workspaces' bridge."""
    links = json.loads(botstead.sh("ip -json -4 address show"))
    return next(l["addr_info"][0]["local"] for l in links if l.get("ifname", "").startswith("bs-"))


class Listener:
    """A program of the host that listens on every address, and when it was reached."""

    def __enter__(self):
        self.accepted = []
        self.socket = socket.create_server(("0.0.0.0", 0), backlog=1000)
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def accept(self):
        try:
            while True:
                self.socket.accept()[0].close()
                self.accepted.append(time.monotonic())
        except OSError:
            pass  # Closed below.

    def __exit__(self, *_):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def open_while(space, change):
    """Changes the host's firewall while a workspace tries to reach the host. The host must be closed
    again, and the world reachable, before the server would look by itself. Tells how long it was open."""
    with Listener() as listener:
        knock = f"""exec python3 -c '
import socket
while True:
    open("/data/knocked", "w").close()
    s = socket.socket()
    s.settimeout(0.05)
    s.connect_ex(("{gateway()}", {listener.port}))
    s.close()'"""
        space.out("rm -f /data/knocked")
        knocking = space.detach(knock)["exec_id"]
        try:
            botstead.until("it knocks", lambda: space.run("test -e /data/knocked")["exit_code"] == 0)
            assert not listener.accepted, "open before"
            began = time.monotonic()
            change()
            took = botstead.until("it reaches beyond", lambda: reaches_beyond(space), SOON)
            table = time.monotonic()
            time.sleep(2)
            late = [moment for moment in listener.accepted if moment > table]
            assert not late, f"the host was reached {len(late)} times after the table was back"
        finally:
            botstead.post(f"{space.path}/exec/{knocking}/signal", {"signal": "KILL"})
        if not listener.accepted:
            return f"never open; the world again after {took:.1f} s"
        longest = listener.accepted[-1] - began
        return f"open until {longest * 1000:.0f} ms after the change began; the world again after {took:.1f} s"
