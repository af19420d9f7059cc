"""A real MLflow tracking server for tests: a process group that can be killed and started again."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

HOST = "127.0.0.1"
PATIENCE = 180.0  # seconds for a first start, which builds a database on a machine that may be busy


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@dataclass
class MlflowServer:
    """`mlflow server` on this machine; everything it keeps is in `folder`.

    With `user`, it asks for this name and `password`, which MLflow wants to have 12 characters.
    """

    folder: Path
    user: str = ""
    password: str = ""
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://{HOST}:{self.port}"

    def uri_of(self, user: str, password: str) -> str:
        """The address with credentials in it."""
        return f"http://{user}:{password}@{HOST}:{self.port}"

    def start(self) -> "MlflowServer":
        """Starts it on the same port and the same database as before; returns when it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self._environment(),
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE
        while not self._healthy():
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "server.log").read_text(errors="replace")
                self.kill()
                raise AssertionError(f"the server does not start: {said[-2000:]}")
            time.sleep(0.1)
        return self

    def kill(self) -> None:
        """SIGKILL to the whole group: uvicorn's workers outlive their parent otherwise."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def _command(self) -> list[str]:
        command = [
            *(sys.executable, "-m", "mlflow", "server"),
            *("--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"),
            *("--artifacts-destination", (self.folder / "artifacts").as_uri()),
            *("--host", HOST, "--port", str(self.port), "--workers", "1"),
        ]
        return [*command, "--app-name", "basic-auth"] if self.user else command

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        kept |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        if self.user:
            config = self.folder / "auth.ini"
            config.write_text(
                "[mlflow]\ndefault_permission = READ\n"
                f"database_uri = sqlite:///{self.folder}/auth.db\n"
                f"admin_username = {self.user}\nadmin_password = {self.password}\n"
                "auth_cache_ttl_seconds = 600\n"  # else every request costs a slow hash
            )
            kept |= {"MLFLOW_AUTH_CONFIG_PATH": str(config)}
            kept |= {"MLFLOW_FLASK_SERVER_SECRET_KEY": "only for tests"}
        return kept

    def _healthy(self) -> bool:
        with suppress(OSError), urlopen(f"{self.uri}/health", timeout=5) as answer:
            return bool(answer.status == 200)
        return False
