"""/dev/raw1394 as a second /dev/null, against a start-up error of OpenCV's libdc1394."""

from __future__ import annotations

import os
import stat

from ansible_collections.edge.pi_fleet.plugins.module_utils.device import MANAGED, Device, DeviceError, read_text

NODE = "/dev/raw1394"
CONFIG = "/etc/tmpfiles.d/pi-fleet-raw1394.conf"
NULL = (1, 3)
WAITS = "activation waits: container"
# The map of a namespace that is none, user_namespaces(7).
ALL_USERS = "0 0 4294967295"
TEXT = f"{MANAGED}# The node of /dev/null under the name that libdc1394 opens; tmpfiles.d(5).\n"
TEXT += f"c {NODE} 0666 root root - {NULL[0]}:{NULL[1]}\n"


def probe(device: Device) -> str:
    """Return what is at /dev/raw1394: `absent`, `null`, `null with other rights`, or `real` hardware.

    It is WAITS where nothing is, and the kernel makes no nodes for anybody: in a user namespace, as a rootless
    container's (mknod(2)), which systemd-tmpfiles passes over. Anything else is not ours to replace: DeviceError.
    """
    try:
        found = os.lstat(device.path(NODE))
    except FileNotFoundError:
        own = (read_text(device.path("/proc/self/uid_map")) or ALL_USERS).split() == ALL_USERS.split()
        return "absent" if own else WAITS
    if not stat.S_ISCHR(found.st_mode):
        raise DeviceError(f"{NODE} is there and is no character device: remove it and run again.")
    if (os.major(found.st_rdev), os.minor(found.st_rdev)) != NULL:
        return "real"
    right = (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o666, 0, 0)
    return "null" if right else "null with other rights"


def check_raw1394(device: Device) -> tuple[bool, str, str]:
    """Check that the node is there and will be after a boot, unless there is hardware."""
    found, kept = probe(device), read_text(device.path(CONFIG)) == TEXT
    text = f"{found}, {'made' if kept else 'not made'} at boot"
    return found == "real" or (found in ("null", WAITS) and kept), text, "null, made at boot, or real hardware"
