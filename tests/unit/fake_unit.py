"""A worker's systemd unit, as far as the worker sees it: a folder, an environment, a token as standard input."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from fake_core import SECONDS, TOKEN, Core

FILES = Path(__file__).resolve().parents[2] / "files"
ARN = "arn:aws:lambda:eu-central-1:000000000000:function:sample:3"
ROUTER = "arn:aws:lambda:::function:GGRouter"
SHADOW = "arn:aws:lambda:::function:GGShadowService"
SECRETS = "arn:aws:lambda:::function:GGSecretManager:1"


class Unit:
    """Starts `localcore.worker` in `folder`; what it writes is in `journal()`."""

    def __init__(self, core: Core, folder: Path) -> None:
        self.core = core
        self.folder = folder
        self.token = TOKEN
        places = [FILES / "localcore", FILES / "camera", folder.parent / "elsewhere"]
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(map(str, places)),
            "PYTHONWARNINGS": "error",
            "MY_FUNCTION_ARN": ARN,
            "ROUTER_FUNCTION_ARN": ROUTER,
            "SHADOW_FUNCTION_ARN": SHADOW,
            "SECRETS_MANAGER_FUNCTION_ARN": SECRETS,
            "GG_DAEMON_PORT": str(core.port),
            "GGC_MAX_INTERFACE_VERSION": "1.5",
            "AWS_REGION": "eu-central-1",
            "AWS_IOT_THING_NAME": "pi-1",
            "ENCODING_TYPE": "json",
            "LAMBDA_HANDLER": "sample.function_handler",
            "LAMBDA_TIMEOUT": "20",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._journal = folder.parent / "journal"

    def start(self, source: str | None = None) -> None:
        """Start it with `source` as sample.py, and do not wait for anything."""
        if source is not None:
            (self.folder / "sample.py").write_text(source)
        with self._journal.open("ab") as journal:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "localcore.worker"],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=journal,
                stderr=journal,
            )
        assert self._process.stdin is not None
        self._process.stdin.write(self.token.encode())
        self._process.stdin.close()

    def run(self, source: str) -> None:
        """Start it and wait until it is ready."""
        self.start(source)
        result = self.core.initialised.get(timeout=SECONDS)
        assert result == {"Success": True, "Response": ""}, self.journal()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def end(self) -> int:
        """Wait until it ends by itself; return its status."""
        return self.process.wait(SECONDS)

    def journal(self) -> str:
        return self._journal.read_text()

    def wait_for(self, text: str) -> None:
        """Wait until the journal says so."""
        end = time.monotonic() + SECONDS
        while text not in self.journal():
            assert time.monotonic() < end, self.journal()
            time.sleep(0.01)

    def wait_for_handler(self, number: int) -> None:
        """Wait until the process handles a signal."""
        end = time.monotonic() + SECONDS
        while not self._handled() & 1 << (number - 1):
            assert time.monotonic() < end, self.journal()
            time.sleep(0.01)

    def _handled(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("SigCgt:")[2].split()[0], 16)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
