"""Tries what no Lambda may, and answers what became of it: of each attempt the error's name, or what it got."""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import time

import greengrasssdk

data = greengrasssdk.client("iot-data")
PTRACE_ATTACH = 16
ELSEWHERE = [
    "/boot/firmware/config.txt",
    "/etc/passwd",
    "/home/ggc_user/new",
    "/opt/pi-fleet/lambda/echo/current/echo.py",
    "/opt/pi-fleet/lambda/intruder/current/intruder.py",
    "/opt/pi-fleet/venv/new",
    "/usr/local/bin/new",
    "/var/lib/pi-fleet/state.json",
    "/dev/mem",
    "/dev/kmsg",
]
HIDDEN = [
    "/boot/firmware",
    "/etc/pi-fleet/group.json",
    "/etc/pi-fleet/lambda",
    "/etc/pi-fleet/private",
    "/etc/shadow",
    "/home",
    "/home/pi",
    "/opt/pi-fleet/lambda/echo",
    "/opt/pi-fleet/model",
    "/root",
    "/run/avahi-daemon",
    "/run/dbus",
    "/run/wpa_supplicant",
    "/var/lib",
    "/var/log",
]
# More than each holds, in MiB.
BOUNDED = {"/dev/shm": 20, os.environ.get("RUNTIME_DIRECTORY", ""): 6}


def outcome(attempt, *arguments):
    try:
        return attempt(*arguments)
    except OSError as error:
        return type(error).__name__


def write(path):
    with open(path, "ab"):
        return "written"


def read(path):
    if os.path.isdir(path):
        return os.listdir(path)
    with open(path, "rb") as file:
        return "read %d" % len(file.read())


def look_into(pid):
    """What another process was given: its token came by its standard input."""
    return {
        what: outcome(read, "/proc/%s/%s" % (pid, what)) for what in ("environ", "fd", "mem", "maps", "root", "cwd")
    }


def in_a_child(attempt):
    """By which signal a child ends that tries, or its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(attempt())
        except OSError:
            os._exit(99)
    status = os.waitpid(pid, 0)[1]
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def attach(pid):
    return 0 if ctypes.CDLL(None).ptrace(PTRACE_ATTACH, pid, 0, 0) == 0 else 99


def reach(address):
    with socket.create_connection(tuple(address), timeout=5):
        return "connected"


def bind(port):
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        return "bound"


def breed(limit):
    """How many processes there can be, each of them asleep."""
    children = []
    try:
        while len(children) < limit:
            children.append(subprocess.Popen(["/bin/sleep", "60"], stdin=subprocess.DEVNULL))
    except OSError as error:
        stopped = type(error).__name__
    else:
        stopped = ""
    for child in children:
        child.kill()
        child.wait()
    return {"processes": len(children), "stopped": stopped}


def stuff(folder, mebibytes):
    """Take memory where a folder is in it, and give it back."""
    path = os.path.join(folder, "stuffed")
    try:
        with open(path, "ab") as file:
            os.posix_fallocate(file.fileno(), 0, mebibytes * 2**20)
    finally:
        os.unlink(path)
    return "stuffed"


def fill(path):
    """Take all disk space there is, most of it at once, and hold it."""
    with open(path, "ab") as file:
        space = os.fstatvfs(file.fileno())
        taken = max(space.f_bavail * space.f_frsize - 2**24, 1)
        os.posix_fallocate(file.fileno(), 0, taken)
        # What is left is not known exactly: the file system takes some for itself.
        for step in (2**20, 2**12):
            with contextlib.suppress(OSError):
                while True:
                    os.posix_fallocate(file.fileno(), taken, step)
                    taken += step
        time.sleep(300)


def status():
    with open("/proc/self/status") as file:
        found = dict(line.strip().split(":\t", 1) for line in file if ":\t" in line)
    return {name: found[name].strip() for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")}


def function_handler(event, context):
    pid, addresses = event.get("pid"), event.get("addresses", [])
    answer = {"number": event.get("number"), "status": status()}
    if "fill" in event:
        answer["fill"] = outcome(fill, event["fill"])
    if pid:
        answer["written"] = {path: outcome(write, path) for path in ELSEWHERE}
        answer["read"] = {path: outcome(read, path) for path in HIDDEN}
        answer["stuffed"] = {folder: outcome(stuff, folder, size) for folder, size in BOUNDED.items()}
        answer["others"] = {folder: os.listdir(folder) for folder in ("/dev/shm", "/opt/pi-fleet/lambda", "/srv")}
        answer["process"] = look_into(pid)
        answer["traced"] = in_a_child(lambda: attach(pid))
        answer["root"] = in_a_child(lambda: os.setuid(0) or 0)
        answer["mounted"] = in_a_child(lambda: ctypes.CDLL(None).mount(b"none", b"/mnt", b"tmpfs", 0, None) and 99)
        answer["namespace"] = in_a_child(lambda: ctypes.CDLL(None).unshare(0x10000000) and 99)
    answer["reached"] = {"%s:%d" % tuple(each): outcome(reach, each) for each in addresses}
    answer["bound"] = {str(port): outcome(bind, port) for port in event.get("ports", [])}
    if "breed" in event:
        answer["bred"] = breed(event["breed"])
    data.publish(topic="echo/answer", payload=json.dumps(answer), queueFullPolicy="AllOrException")
