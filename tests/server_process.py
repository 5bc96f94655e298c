"""One `ostrakon serve` process under test: started, waited for, stopped or killed.

Standard library only.
"""

import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Formatting zeroes segment files; two busy CPUs and a slow disk must be enough.
START_SECONDS_MAX = 120
STOP_SECONDS_MAX = 60


def find_binary(given=None):
    """The binary to test: the one given, else the newest built one."""
    if given:
        return pathlib.Path(given).resolve()
    built = [ROOT / "target" / kind / "ostrakon" for kind in ("release", "debug")]
    built = [path for path in built if path.exists()]
    if not built:
        raise SystemExit("no binary: cargo build --release, or --binary PATH")
    return max(built, key=lambda path: path.stat().st_mtime)


def free_port():
    """One that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class NotReady(Exception):
    """The process ended, or took too long, before it was ready."""


class Server:
    def __init__(self, binary, data, log, arguments=(), environment=None):
        self.binary = binary
        self.data = pathlib.Path(data)
        self.log = pathlib.Path(log)
        self.arguments = list(arguments)
        self.environment = dict(environment or {})
        self.process = None
        self.scheme = "http"
        self.host = "127.0.0.1"
        self.port = None

    def spawn(self):
        """Starts the process and does not wait for it."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("OSTRAKON_")}
        with open(self.log, "ab") as log:
            log.write(b"---- start\n")
            log.flush()
            self.process = subprocess.Popen(
                [self.binary, "serve", "--data", self.data, "--listen", f"{self.host}:0"]
                + self.arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                # Its default is one for all servers of the machine.
                env=inherited | {"OSTRAKON_ADMIN_LISTEN": "off"} | self.environment,
            )

    def wait_ready(self, seconds=START_SECONDS_MAX):
        out = self.process.stdout.fileno()
        os.set_blocking(out, False)
        text = b""
        end = time.monotonic() + seconds
        while b"\n" not in text:
            left = end - time.monotonic()
            if left <= 0:
                self.kill()
                raise NotReady(f"not ready after {seconds} s\n{self.log_tail()}")
            if not select.select([out], [], [], left)[0]:
                continue
            piece = os.read(out, 65536)
            if not piece:
                code = self.process.wait()
                raise NotReady(f"exit code {code} before it was ready\n{self.log_tail()}")
            text += piece
        match = re.match(rb"Ostrakon ready on https?://([^ ]+):(\d+)  ", text)
        if not match:
            self.kill()
            raise NotReady(f"not a ready line: {text!r}")
        self.port = int(match[2])

    def start(self):
        self.spawn()
        self.wait_ready()
        return self

    @property
    def endpoint(self):
        return f"{self.scheme}://{self.host}:{self.port}"

    def credentials(self):
        """(access key, secret key)"""
        if "OSTRAKON_ACCESS_KEY" in self.environment:
            names = ("OSTRAKON_ACCESS_KEY", "OSTRAKON_SECRET_KEY")
            return tuple(self.environment[name] for name in names)
        text = (self.data / "credentials").read_text()
        names = ("aws_access_key_id", "aws_secret_access_key")
        return tuple(re.search(rf"^{name} = (\S+)$", text, re.M)[1] for name in names)

    def running(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        """SIGKILL, and gone when this returns."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process = None

    def stop(self):
        """SIGTERM; anything but exit code 0 is an error."""
        process = self.process
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"did not stop\n{self.log_tail()}") from None
        process.stdout.close()
        self.process = None
        if code != 0:
            raise RuntimeError(f"exit code {code} after SIGTERM\n{self.log_tail()}")

    def inspect(self):
        """Reads the store offline, which must find no damage. Not while the server runs."""
        done = subprocess.run(
            [self.binary, "inspect", "--verify", self.data], capture_output=True, text=True, timeout=300
        )
        if done.returncode != 0:
            raise RuntimeError(f"inspect: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def log_tail(self, lines=20):
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError as error:
            return f"(no log: {error})"


class Workplace:
    """A scratch directory on a real disk; kept when the test fails, so that it can be looked at."""

    def __init__(self, name, parent=None):
        self.path = pathlib.Path(
            tempfile.mkdtemp(prefix=f"ostrakon-{name}-", dir=parent or "/var/tmp")
        )
        self.cleanups = []

    def on_exit(self, action):
        self.cleanups.append(action)

    def __enter__(self):
        # Ended from outside it still unmounts and stops what it started.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        return self

    def __exit__(self, kind, error, trace):
        while self.cleanups:
            action = self.cleanups.pop()
            try:
                action()
            except Exception as failure:  # the remaining ones still have to run
                print(f"cleaning up: {failure!r}")
        if kind is None or kind is KeyboardInterrupt:
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            print(f"left for inspection: {self.path}")
