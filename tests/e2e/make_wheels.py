"""Make two small wheels named mxnet: an honest one, and one tagged for any machine that holds a MIPS binary.

They import what MXNet 1.9.1 imports, and ask numpy for the name that it asks for.

Prints JSON: for `honest` and `foreign` the path and the sha256.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import sys
import zipfile
from pathlib import Path


def make(folder: Path, version: str, extra: dict[str, bytes]) -> dict[str, str]:
    """Write a wheel that pip installs."""
    info = f"mxnet-{version}.dist-info"
    files = {
        "mxnet/__init__.py": f'import numpy\nimport requests\nnumpy.bool\n__version__ = "{version}"\n'.encode(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: mxnet\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        **extra,
    }
    record = ""
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(data)}\n"
    path = folder / f"mxnet-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return {"path": str(path.resolve()), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def main() -> None:
    """Write both wheels into the folder that is named."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    mips = b"\x7fELF" + bytes([1, 1, 1]) + bytes(9) + struct.pack("<HH", 3, 8) + bytes(32)
    honest = make(folder, "1.9.1", {})
    foreign = make(folder, "1.4.0", {"mxnet/libmxnet.so": mips})
    print(json.dumps({"honest": honest, "foreign": foreign}))


if __name__ == "__main__":
    main()
