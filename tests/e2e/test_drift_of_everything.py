"""Whatever is recorded of a device, of any kind: changed, it is told, and the next site.yml makes it as it was.

The changes are made of the device's own record, so that there is no list of them here. E2E_INVENTORY names a
provisioned device that may be spoiled.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Fleet

# Returns the entries that it changed. Pictures are nobody's to change, and without host keys nobody could log in.
CHANGE = """
import json, os, re, shutil, signal, stat, struct, subprocess
from pathlib import Path
record = json.loads(Path("/var/lib/pi-fleet/state.json").read_text())["content"]["roles"]
entries = {entry: known for role in record.values() for entry, known in role["entries"].items()}
# What is in them is pi-fleet's and others' to change.
changing = {path for role in record.values() for path in role["manages"].get("changing", ())}
paths = {
    entry.removeprefix("path "): known
    for entry, known in entries.items()
    if entry.startswith("path ") and known["type"] != "absent" and not entry.startswith("path /etc/ssh/")
    and (KIND in ("mode", "owner", "acl") or entry.removeprefix("path ") not in changing)
}
units = [entry.removeprefix("unit ") for entry, known in entries.items() if known.get("start at boot") == "enabled"]
def named(kind):
    return {entry.removeprefix(f"{kind} "): known for entry, known in entries.items() if entry.startswith(f"{kind} ")}
changed = []
def of(kind):
    return sorted(path for path, known in paths.items() if known["type"] == kind)
def call(*argv):
    subprocess.run(argv, check=True, capture_output=True)
def listed(package):
    lists = [path for path in Path("/var/lib/dpkg/info").glob("*.list") if path.stem.partition(":")[0] == package]
    return map(Path, lists[0].read_text().splitlines())
if KIND == "mode":
    for path in of("file") + of("directory") + of("character device"):
        os.chmod(path, os.stat(path).st_mode & 0o7777 ^ 0o002)
        changed.append(f"path {path}")
elif KIND == "owner":
    for path in paths:
        os.chown(path, 1, 1, follow_symlinks=False)
        changed.append(f"path {path}")
elif KIND == "acl":
    for path in of("file") + of("directory"):
        mode = stat.S_IMODE(os.stat(path).st_mode)
        bits = [mode >> 6 & 7, 4, mode >> 3 & 7, mode >> 3 & 7, mode & 7]
        # Tags of owner, another user (games), group, mask and others: see acl(5). The mode stays.
        users = [-1, 5, -1, -1, -1]
        value = struct.pack("<I", 2) + b"".join(map(struct.Struct("<HHi").pack, (1, 2, 4, 16, 32), bits, users))
        os.setxattr(path, "system.posix_acl_access", value)
        if os.path.isdir(path):
            os.setxattr(path, "system.posix_acl_default", value)
        else:
            # One that may be had and is had, as of programs that open sockets of all kinds: see capabilities(7).
            os.setxattr(path, "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))
        assert stat.S_IMODE(os.stat(path).st_mode) == mode
        changed.append(f"path {path}")
elif KIND == "byte":
    for path in of("file"):
        with open(path, "ab") as stream:
            stream.write(b"# somebody was here\\n")
        changed.append(f"path {path}")
elif KIND == "token":
    # As whole as the one that was made.
    path = Path("/etc/pi-fleet/private/localcore.json")
    path.write_text(path.read_text().translate(str.maketrans("0123456789", "1234567890")))
    changed.append(f"path {path}")
elif KIND == "gone":
    for path in of("file") + of("link"):
        os.unlink(path)
        changed.append(f"path {path}")
elif KIND == "link":
    for path in of("link"):
        os.unlink(path)
        os.symlink("/nowhere", path)
        changed.append(f"path {path}")
elif KIND == "another":
    for path in of("file"):
        os.unlink(path)
        os.symlink("/dev/null", path)
        changed.append(f"path {path}")
elif KIND == "folder":
    for path in of("file") + of("link"):
        os.unlink(path)
        os.mkdir(path)
        Path(path, "mine").write_text("somebody's")
        changed.append(f"path {path}")
elif KIND == "file for a node":
    for path in of("character device"):
        os.unlink(path)
        Path(path).write_text("somebody's")
        changed.append(f"path {path}")
elif KIND == "another node":
    for path in of("character device"):
        os.unlink(path)
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
        changed.append(f"path {path}")
elif KIND == "more modules":
    trees = {tree for role in record.values() for tree in role["manages"].get("trees", ())}
    # Where no source is, Python imports bytecode too.
    modules = [Path(tree, "mine.py") for tree in trees if os.path.isdir(tree)]
    releases = [Path(path).resolve() for path in of("link") if path.endswith("/current")]
    modules += [path / "mine.pyc" for path in releases if not trees.isdisjoint(map(str, path.parents))]
    for path in modules:
        path.write_text("# somebody's")
        changed.append(f"path {path}")
elif KIND == "release":
    for path in map(Path, of("link")):
        if path.name == "current":
            other = path.parent / "releases" / "0123456789abcdef"
            shutil.copytree(path, other)
            os.unlink(path)
            os.symlink("releases/0123456789abcdef", path)
            changed.append(f"path {path}")
    for unit in units:
        call("systemctl", "restart", unit)
elif KIND == "packages":
    names = [name for name, known in named("package").items() if known["state"] == "installed"]
    call("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "remove", "--yes", *names)
    changed += [f"package {name}" for name in names]
elif KIND == "files of packages":
    # As with whatever is written: a program of another time.
    for name, known in named("package").items():
        for path in listed(name) if "files" in known else []:
            if str(path).startswith(("/usr/bin/", "/usr/lib/")) and path.is_file() and not path.is_symlink():
                os.utime(path, (1, 1))
                changed.append(f"package {name}")
                break
elif KIND == "modules in the place of packages'":
    python = Path("/usr/bin/python3").resolve().name
    for name, known in named("package").items():
        for path in listed(name) if "files" in known else []:
            if str(path.parent) == "/usr/lib/python3/dist-packages" and not path.suffix.endswith("-info"):
                local = Path("/usr/local/lib", python, "dist-packages", path.name.partition(".")[0])
                local.mkdir(parents=True, exist_ok=True)
                (local / "__init__.py").write_text("raise ImportError('of somebody')\\n")
                changed.append(f"package {name}")
elif KIND in ("home and shell", "number"):
    # As with an editor: usermod refuses while they run anything.
    for kind, file in (("user", "passwd"), ("group", "group")):
        path = Path("/etc", file)
        lines = [line.split(":") for line in path.read_text().splitlines()]
        for fields in lines:
            if fields[0] in named(kind) and KIND == "number":
                fields[2] = str(int(fields[2]) + 30000)
                changed.append(f"{kind} {fields[0]}")
            elif fields[0] in named(kind) and kind == "user":
                fields[5:] = ["/tmp", "/bin/bash"]
                changed.append(f"user {fields[0]}")
        path.write_text("".join(":".join(fields) + "\\n" for fields in lines))
elif KIND == "who may log in":
    # chage asks shadow alone; a password that need not be given is in passwd.
    for name, known in named("user").items():
        if "number" in known:
            call("chage", "--lastday", "0", "--expiredate", "1", name)
            changed.append(f"user {name}")
    path = Path("/etc/passwd")
    lines = [line.split(":") for line in path.read_text().splitlines()]
    for fields in lines:
        if fields[0] in named("user"):
            fields[1], fields[4] = "", "somebody"
    path.write_text("".join(":".join(fields) + "\\n" for fields in lines))
    for name, known in named("group").items():
        if "number" in known:
            call("gpasswd", "--administrators", "games", name)
            lines = [line.split(":") for line in Path("/etc/gshadow").read_text().splitlines()]
            lines = [[each, "$y$x", *rest] if each == name else [each, _, *rest] for each, _, *rest in lines]
            Path("/etc/gshadow").write_text("".join(":".join(fields) + "\\n" for fields in lines))
            changed.append(f"group {name}")
elif KIND in ("accounts that are gone", "other names"):
    # Of who runs anything neither is possible.
    call("systemctl", "stop", "localcore.service", "lambda@*", "connector@*")
    users, groups = ({name for name, known in named(kind).items() if "number" in known} for kind in ("user", "group"))
    for name in users:
        # With its own group.
        call(*(["userdel", name] if KIND != "other names" else ["usermod", "--login", f"{name}x", name]))
        changed.append(f"user {name}")
    for name in groups if KIND == "other names" else groups & users:
        if KIND == "other names":
            call("groupmod", "--new-name", f"{name}x", name)
        changed.append(f"group {name}")
elif KIND == "members":
    for name in named("user"):
        call("gpasswd", "--add", name, "games")
        changed.append(f"user {name}")
    for name in named("group"):
        call("gpasswd", "--add", "games", name)
        changed.append(f"group {name}")
    for unit in units:
        call("systemctl", "restart", unit)
elif KIND == "kernel and swap":
    for path in map(Path, ("/boot/firmware/cmdline.txt", "/boot/cmdline.txt")):
        if path.exists() and "kernel command line" in entries:
            line, end, rest = path.read_text().partition("\\n")
            path.write_text(f"{line} cgroup_disable=memory{end}{rest}")
            changed.append("kernel command line")
            break
    for path in of("file"):
        if path.startswith(("/etc/dphys-swapfile", "/etc/rpi/swap.conf.d/")):
            text, count = re.subn(r"(SWAPSIZE|SizeMiB)=[0-9]+", r"\\1=77", Path(path).read_text())
            Path(path).write_text(text)
            changed += ["swap"] if count else []
    # In a container they are the host's.
    if subprocess.run(["systemd-detect-virt", "--container", "--quiet"]).returncode:
        for name in named("sysctl"):
            Path("/proc/sys", name.replace(".", "/")).write_text("0")
            changed.append(f"sysctl {name}")
elif KIND == "stopped":
    for unit in units:
        call("systemctl", "stop", unit)
        changed.append(f"unit {unit}")
elif KIND == "halted":
    for unit in units:
        shown = ["systemctl", "show", "--property=MainPID", "--value", unit]
        process = int(subprocess.run(shown, check=True, capture_output=True, text=True).stdout or 0)
        if process:
            os.kill(process, signal.SIGSTOP)
            changed.append(f"unit {unit}")
elif KIND == "disabled":
    for unit in units:
        call("systemctl", "disable", unit)
        changed.append(f"unit {unit}")
elif KIND in ("masked", "masked until a boot"):
    for unit in units:
        # One whose file lies there cannot be masked.
        if not os.path.lexists(f"/etc/systemd/system/{unit}"):
            call("systemctl", "mask", *(["--runtime"] if KIND != "masked" else []), unit)
            changed.append(f"unit {unit}")
elif KIND in ("drop-in", "drop-in until a boot", "drop-in for all of a kind", "drop-in that nobody read"):
    for unit in units:
        # For all instances of a template, and else for all units of a type.
        of_a_kind = re.sub("@.*[.]", "@.", unit) if "@" in unit else unit.rpartition(".")[2]
        folder = Path(
            "/run/systemd/system" if KIND == "drop-in until a boot" else "/etc/systemd/system",
            f"{of_a_kind if KIND == 'drop-in for all of a kind' else unit}.d",
        )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "somebody.conf").write_text("[Unit]\\nDescription=another\\n")
        changed.append(f"unit {unit}")
    if KIND != "drop-in that nobody read":
        call("systemctl", "daemon-reload")
elif KIND == "drop-in for what swaps":
    for unit in ("var-swap.swap", "dphys-swapfile.service", "swap"):
        path = Path("/etc/systemd/system", f"{unit}.d", "somebody.conf")
        path.parent.mkdir()
        path.write_text("[Unit]\\nDescription=another\\n")
        changed.append(f"path {path}")
elif KIND == "unit that nobody asked for":
    for unit, known in named("unit").items():
        if known["loaded"] == "not-found":
            text = "[Service]\\nExecStart=/bin/sleep 1h\\n[Install]\\nWantedBy=multi-user.target\\n"
            Path("/etc/systemd/system", unit).write_text(text)
            call("systemctl", "daemon-reload")
            call("systemctl", "enable", "--now", unit)
            changed.append(f"unit {unit}")
elif KIND in ("started elsewhere", "requires what is not there", "static and started"):
    for unit, known in named("unit").items():
        if known["loaded"] != "loaded":
            continue
        links = Path("/etc/systemd/system").glob(f"*.wants/{unit}") if KIND == "started elsewhere" else []
        for link in list(links):
            other = Path("/etc/systemd/system/rescue.target.wants", unit)
            other.parent.mkdir(exist_ok=True)
            link.rename(other)
            changed.append(f"unit {unit}")
        if KIND == "requires what is not there":
            folder = Path("/etc/systemd/system", f"{unit}.requires")
            folder.mkdir()
            (folder / "no.service").symlink_to("/nowhere")
            changed.append(f"unit {unit}")
        if KIND == "static and started" and known["start at boot"] == "static":
            call("systemctl", "add-wants", "timers.target", unit)
            changed.append(f"unit {unit}")
    call("systemctl", "daemon-reload")
elif KIND == "unit that nobody read":
    for unit in units:
        path = Path("/etc/systemd/system", unit)
        if not path.exists():
            path.write_text("[Service]\\nExecStart=/bin/sleep 1h\\n")
            changed.append(f"path {path}")
print(json.dumps(changed))
"""
# A whole release beside the current one, which the next record knows; prints where it is.
FORMER = """
import hashlib, os, shutil
from pathlib import Path
store = Path("/opt/pi-fleet/lambda/beverage_classifier")
made = store / "releases/made"
shutil.copytree(store / "current", made, ignore=shutil.ignore_patterns("__pycache__"))
(made / "former.py").write_text("")
digest = hashlib.sha256()
for name in sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file()):
    content = hashlib.sha256((made / name).read_bytes()).hexdigest()
    digest.update(f"{content} {'x' if os.access(made / name, os.X_OK) else '-'} {name}\\n".encode())
former = made.rename(made.with_name(digest.hexdigest()[:16]))
Path("/var/lib/pi-fleet/state.json").unlink()
print(former)
"""
# When the processes of pi-fleet's services were started, after what the time is.
STARTED = """
import json, subprocess, time
shown = ["systemctl", "show", "--property=Id,ActiveState,ExecMainStartTimestamp", "--timestamp=unix"]
patterns = ["localcore.service", "lambda@*.service", "connector@*.service"]
output = subprocess.run([*shown, *patterns], check=True, capture_output=True, text=True).stdout
blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in output.strip().split("\\n\\n")]
active = [block for block in blocks if block["ActiveState"] == "active"]
started = {block["Id"]: int(block["ExecMainStartTimestamp"].lstrip("@")) for block in active}
print(json.dumps([time.time(), started]))
"""
# What is not managed: the system's own doings, the user's files, pictures, other packages and units.
UNMANAGED = """
import json, os, subprocess, time
from pathlib import Path
pictures = Path("/home/ggc_user/raw_field_data")
for name in ("1800000000000_clutter_0.9.jpg", "1800000000001.jpg"):
    (pictures / name).write_bytes(b"a picture")
written = {
    "/var/log/somebody.log": "x", "/var/log/syslog": "x", "/root/notes": "x", "/home/pi/notes": "x",
    "/etc/motd": "hello", "/etc/issue": "hello", "/tmp/x": "x", "/var/tmp/x": "x", "/srv/x": "x",
    "/opt/mine/program": "x", "/usr/local/bin/mine": "x", "/etc/cron.d/mine": "# x",
    "/etc/sysctl.d/50-mine.conf": "# x", "/etc/tmpfiles.d/mine.conf": "# x", "/etc/apt/apt.conf.d/99mine": "// x",
    "/etc/systemd/system/mine.service": "[Service]\\nExecStart=/bin/true\\n",
    "/etc/systemd/system/lambda@beverage_classifier.service.bak": "[Service]\\nExecStart=/bin/true\\n",
    "/etc/systemd/system/lambda@.service": "[Service]\\nExecStart=/bin/true\\n",
}
for name, text in written.items():
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
bytecode = Path("/opt/pi-fleet/localcore/current/localcore/__pycache__")
bytecode.mkdir(exist_ok=True)
(bytecode / "mine.cpython-311.pyc").write_bytes(b"x")
subprocess.run(["systemctl", "daemon-reload"], check=True)
subprocess.run(["useradd", "--create-home", "eve"], check=True, capture_output=True)
subprocess.run(["logger", "hello"], check=True)
# One that no role knows, and one that role camera would need elsewhere, where Debian has any.
record = json.loads(Path("/var/lib/pi-fleet/state.json").read_text())["content"]["roles"]
others = [
    entry.removeprefix("package ") for entry, known in record["camera"]["entries"].items()
    if entry.startswith("package ") and known["state"] == "not installed"
]
offered = [
    name for name in others
    if subprocess.run(["apt-cache", "show", "--quiet", name], capture_output=True).returncode == 0
]
install = ["apt-get", "-qq", "install", "--yes", "--no-install-recommends", "cowsay", *offered[:1]]
subprocess.run(install, check=True, capture_output=True)
"""
UNCHANGED_RUNS = 50
# Whose change leaves something to processes that only a restart takes from them.
RESTARTED = [
    "byte",
    "token",
    "more modules",
    "release",
    "packages",
    "files of packages",
    "modules in the place of packages'",
    "members",
    "number",
    "halted",
    "drop-in for all of a kind",
]
KINDS = ["mode", "owner", "gone", "link", "another", "folder", "file for a node", "another node", "home and shell"]
KINDS += ["acl", "who may log in", "accounts that are gone", "other names"]
KINDS += ["kernel and swap", "stopped", "disabled", "masked", "masked until a boot", "drop-in", "drop-in until a boot"]
KINDS += ["drop-in that nobody read", "unit that nobody read"]
KINDS += ["started elsewhere", "requires what is not there", "static and started", "unit that nobody asked for"]
KINDS += ["drop-in for what swaps"]


def report(fleet: Fleet, folder: Path, host: str) -> tuple[int, dict[str, Any]]:
    run = fleet.playbook("playbooks/drift.yml", "--extra-vars", f"drift_report_path={folder}")
    found: dict[str, Any] = json.loads((folder / f"{host}.json").read_text())
    return run.code, found


@pytest.mark.parametrize("kind", KINDS + RESTARTED)
def test_what_is_changed_is_told_and_made_as_it_was(fleet: Fleet, tmp_path: Path, kind: str) -> None:
    (host,) = fleet.hosts()
    code, before = report(fleet, tmp_path, host)
    assert code == 0, before["differences"]
    changed = set(json.loads(fleet.root(host, f"KIND = {kind!r}\n{CHANGE}")))
    assert changed
    code, found = report(fleet, tmp_path, host)
    assert code == 2
    assert changed - {each["entry"] for each in found["differences"]} == set()
    began, _ = json.loads(fleet.root(host, STARTED))
    run = fleet.playbook("playbooks/site.yml")
    assert run.code == 0, run.output[-4000:]
    if kind in RESTARTED:
        _, started = json.loads(fleet.root(host, STARTED))
        assert started
        assert {unit: at for unit, at in started.items() if at < began} == {}
    code, healed = report(fleet, tmp_path, host)
    assert [each["told"] for each in healed["differences"]] == []
    assert code == 0
    assert fleet.playbook("playbooks/verify.yml", "--extra-vars", "verify_ask=true").code == 0


# As the guard of field data does it, which starts again what it noted when it finds that there is room.
STOPPED = """
import json, subprocess
from pathlib import Path
unit = "lambda@beverage_classifier.service"
note = Path("/run/pi-fleet-field-data-guard/low.json")
note.parent.mkdir(exist_ok=True)
note.write_text(json.dumps({"stopped": {unit: "enabled"}, "named": []}))
subprocess.run(["systemctl", "stop", unit], check=True)
"""
STARTED_AGAIN = """
import subprocess, time
from pathlib import Path
while Path("/run/pi-fleet-field-data-guard/low.json").exists():
    time.sleep(1)
while subprocess.run(["systemctl", "is-active", "--quiet", "lambda@beverage_classifier.service"]).returncode:
    time.sleep(1)
"""


def test_what_the_guard_of_field_data_has_stopped_is_silent(fleet: Fleet, tmp_path: Path) -> None:
    (host,) = fleet.hosts()
    fleet.root(host, STOPPED)
    code, found = report(fleet, tmp_path, host)
    assert [each["told"] for each in found["differences"]] == []
    assert code == 0
    fleet.root(host, STARTED_AGAIN)
    assert report(fleet, tmp_path, host)[0] == 0


def test_what_is_mounted_on_the_folder_of_field_data_is_told_until_it_is_gone(fleet: Fleet, tmp_path: Path) -> None:
    (host,) = fleet.hosts()
    code, before = report(fleet, tmp_path, host)
    assert code == 0, before["differences"]
    folder = "/home/ggc_user/raw_field_data"
    run = "import subprocess\nsubprocess.run({!r}, check=True)"
    mount = ["mount", "-t", "tmpfs", "-o", "mode=2770,uid=ggc_user,gid=ggc_group", "x", folder]
    fleet.root(host, run.format(mount))
    told = f"path {folder}: mounted is tmpfs at {folder}, was none"
    for _ in range(2):
        code, found = report(fleet, tmp_path, host)
        assert code == 2
        assert told in {each["told"] for each in found["differences"]}
        left = fleet.playbook("playbooks/site.yml")
        assert left.code == 0, left.output[-4000:]
        assert "undo that on the device and run again" in " ".join(left.output.split())
    fleet.root(host, run.format(["umount", folder]))
    code, healed = report(fleet, tmp_path, host)
    assert [each["told"] for each in healed["differences"]] == []
    assert code == 0


@pytest.mark.parametrize("spoil", ["Path(former, 'former.py').write_text('x')", "shutil.rmtree(former)"])
def test_a_release_that_is_not_current_is_told_once_if_it_is_spoilt(fleet: Fleet, tmp_path: Path, spoil: str) -> None:
    (host,) = fleet.hosts()
    former = fleet.root(host, FORMER).strip()
    assert fleet.playbook("playbooks/site.yml").code == 0
    code, before = report(fleet, tmp_path, host)
    assert code == 0, before["differences"]
    fleet.root(
        host, f"import shutil\nfrom pathlib import Path\nformer = {former!r}\nassert Path(former).is_dir()\n{spoil}"
    )
    code, found = report(fleet, tmp_path, host)
    assert code == 2
    assert f"path {former}/former.py" in {each["entry"] for each in found["differences"]}
    assert fleet.playbook("playbooks/site.yml").code == 0
    code, healed = report(fleet, tmp_path, host)
    assert [each["told"] for each in healed["differences"]] == []
    assert code == 0
    assert fleet.root(host, f"import os\nprint(os.path.exists({former!r}))").strip() == "False"


def test_what_overrules_a_setting_at_the_next_boot_is_told_until_somebody_undoes_it(
    fleet: Fleet, tmp_path: Path
) -> None:
    (host,) = fleet.hosts()
    file = "from pathlib import Path; file = Path('/etc/sysctl.d/99-somebody.conf'); file"
    fleet.root(host, f"{file}.write_text('fs.protected_symlinks = 0')")
    for _ in range(2):
        code, found = report(fleet, tmp_path, host)
        assert code == 2
        assert [each["told"] for each in found["differences"]] == ["sysctl fs.protected_symlinks: at boot is 0, was 1"]
        assert fleet.playbook("playbooks/site.yml").code == 0
    fleet.root(host, f"{file}.unlink()")
    code, found = report(fleet, tmp_path, host)
    assert (code, found["differences"]) == (0, [])


def test_what_is_not_managed_stays_silent_and_nothing_else_is_told_in_many_runs(fleet: Fleet, tmp_path: Path) -> None:
    (host,) = fleet.hosts()
    code, before = report(fleet, tmp_path, host)
    assert code == 0, before["differences"]
    fleet.root(host, UNMANAGED)
    alarms = [
        found["differences"] for code, found in (report(fleet, tmp_path, host) for _ in range(UNCHANGED_RUNS)) if code
    ]
    assert alarms == []


def test_a_package_that_is_held_is_told_with_what_to_do(fleet: Fleet, tmp_path: Path) -> None:
    (host,) = fleet.hosts()
    hold = "import subprocess; subprocess.run(['apt-mark', {!r}, 'mosquitto'], check=True, capture_output=True)"
    fleet.root(host, hold.format("hold"))
    try:
        code, found = report(fleet, tmp_path, host)
        assert (code, [each["told"] for each in found["differences"]]) == (
            2,
            ["package mosquitto: held is yes, was no"],
        )
        run = fleet.playbook("playbooks/site.yml")
        assert run.code == 0, run.output[-4000:]
        assert "run 'sudo apt-mark unhold mosquitto' on the device" in " ".join(run.output.split())
    finally:
        fleet.root(host, hold.format("unhold"))
    assert report(fleet, tmp_path, host)[0] == 0
