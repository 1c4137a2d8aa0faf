"""The demo's SSH server, under OpenSSH's clients."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from gateway.demo.shell import READ
from tests.real.servers import PATIENCE, free_port, until
from tests.real.ssh_clients import Terminal
from tests.real.ssh_servers import keygen, run
from tests.support import over

ROOT = os.geteuid() == 0
BULK = os.urandom(5 * READ + 1)


class Shell:
    """A server in a directory that is its starter's alone, and a client with a certificate."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.home = directory / "web"
        self.home.mkdir()
        self._keys()
        user = ["--user", "nobody"] if ROOT else []
        if ROOT:
            os.chown(self.home, 65534, 65534)
        command = [sys.executable, "-P", "-m", "gateway.demo.shell", "--port", str(self.port)]
        command += ["--host-key", str(directory / "host"), "--account", "deploy", *user]
        command += ["--trusted", (directory / "ca.pub").read_text().strip()]
        with (directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=self.home, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until(self._listens, "the server")

    def _keys(self) -> None:
        host = keygen(self.directory / "host")
        for name in ("ca", "id", "stranger"):
            keygen(self.directory / name)
        run("ssh-keygen", "-q", "-s", self.directory / "ca", "-I", "x", "-n", "deploy",
            self.directory / "id.pub")  # fmt: skip
        (self.directory / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host}\n")
        (self.directory / "config").write_text(f"""\
UserKnownHostsFile {self.directory}/known_hosts
StrictHostKeyChecking yes
IdentityFile {self.directory}/id
IdentitiesOnly yes
LogLevel ERROR
BatchMode yes
Host web
    HostName 127.0.0.1
    Port {self.port}
    User deploy
""")

    def _listens(self) -> bool:
        assert self.process.poll() is None, (self.directory / "log").read_text()
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port)).close()
            return True
        return False

    def command(self, program: str, *arguments: str | Path) -> list[str]:
        return [program, "-F", str(self.directory / "config"), *map(str, arguments)]

    def run(
        self, program: str, *arguments: str | Path, text: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self.command(program, *arguments),
            input=text,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )

    def says(self, command: str, *options: str) -> str:
        done = self.run("ssh", *options, "web", command)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE)


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    with tempfile.TemporaryDirectory(prefix="gwshell") as name:
        server = Shell(Path(name))
        yield server
        assert server.stop() == 0
        assert (server.directory / "log").read_text() == ""


def test_a_command_has_its_streams_and_its_status(shell: Shell) -> None:
    done = shell.run("ssh", "web", "cat; echo problem >&2; exit 3", text=BULK)
    assert (done.stdout, done.stderr, done.returncode) == (BULK, b"problem\n", 3)


def test_a_command_that_a_signal_ends(shell: Shell) -> None:
    assert shell.run("ssh", "web", "kill -TERM $$").returncode == 255
    assert shell.run("ssh", "-v", "web", "kill -TERM $$").stderr.count(b"exit-signal") == 1


def test_a_command_that_does_not_read(shell: Shell) -> None:
    assert shell.run("ssh", "web", "exec <&-; echo done", text=BULK).stdout == b"done\n"


def test_it_runs_as_whoever_it_is_for(shell: Shell) -> None:
    wanted = "65534 65534 65534" if ROOT else f"{os.getuid()} {os.getgid()}"
    assert shell.says("echo $(id -u) $(id -g) $(id -G)").startswith(wanted)
    inner = psutil.Process(shell.process.pid)
    assert set(inner.uids()) == ({65534} if ROOT else {os.getuid()})


def test_home_is_reached_from_everywhere(shell: Shell) -> None:
    shell.says("echo $USER > ~/mine")
    assert shell.says("cd /; cd; cat mine; cat $HOME/mine; pwd") == "deploy\n" * 2 + shell.says(
        "echo $HOME"
    )
    assert (shell.home / "mine").read_text() == "deploy\n"


def test_the_environment_holds_nothing_of_the_server(shell: Shell) -> None:
    said = dict(line.split("=", 1) for line in shell.says("env").splitlines())
    assert said.keys() <= {
        *("HOME", "PWD", "PATH", "SHELL", "USER", "LOGNAME", "SHLVL", "_", "LANG", "OLDPWD")
    }
    assert shell.says("echo $LC_TIME", "-o", "SetEnv=LC_TIME=C") == "C\n"


def test_no_descriptor_of_the_server_is_inherited(shell: Shell) -> None:
    assert shell.says("echo $(ls /proc/$$/fd)") == "0 1 2 3\n"  # 3: what ls is read from


def test_a_terminal(shell: Shell) -> None:
    with Terminal(shell.command("ssh", "-tt", "web"), os.environ) as terminal:
        terminal.type("stty size; tty; echo $TERM-$0\r")
        terminal.wait_for("24 80\r\n")
        terminal.wait_for("/dev/")
        terminal.wait_for("xterm-256color--")
        terminal.resize(33, 77)
        terminal.type(
            'stty size; until [ "$(stty size)" = "44 99" ]; do sleep 0.05; done; stty size\r'
        )
        terminal.wait_for("33 77\r\n")
        terminal.resize(44, 99)
        terminal.wait_for("44 99\r\n", poke=signal.SIGWINCH)
        terminal.type("(echo sleep-$((1 + 1)); exec sleep 60)\r")
        terminal.wait_for("sleep-2")
        terminal.type("\x03")  # to the sleep only: the shell goes on
        terminal.type("exit 7\r")
        assert terminal.wait() == 7


def test_what_is_left_in_the_background_does_not_hold_a_terminal(shell: Shell) -> None:
    done = shell.run("ssh", "-tt", "web", "setsid sleep 65 & echo end; exit 4")
    assert (done.stdout, done.returncode) == (b"end\r\n", 4)


def test_the_end_of_what_a_terminal_shows_is_not_lost(shell: Shell) -> None:
    done = shell.run("ssh", "-tt", "web", "head -c 300000 /dev/zero | tr '\\0' x; echo end")
    assert done.stdout == b"x" * 300000 + b"end\r\n"


def test_who_hangs_up_leaves_nothing_running(shell: Shell) -> None:
    with Terminal(shell.command("ssh", "-tt", "web"), os.environ) as terminal:
        terminal.type("sleep 61 & echo pid $!.\r")
        terminal.wait_for("\npid ")
        sleeping = psutil.Process(int(terminal.wait_for(".")))
        terminal.kill()
    until(lambda: over(sleeping.pid), "its end")
    client = subprocess.Popen(
        shell.command("ssh", "web", "echo $$; exec sleep 62"), stdout=subprocess.PIPE, text=True
    )
    with client:
        assert client.stdout is not None
        sleeping = psutil.Process(int(client.stdout.readline()))
        client.kill()
    until(lambda: over(sleeping.pid), "its end")


@pytest.mark.parametrize("old", [(), ("-O",)], ids=["sftp", "scp"])
def test_files_come_and_go(shell: Shell, tmp_path: Path, old: tuple[str, ...]) -> None:
    (tmp_path / "file").write_bytes(BULK)
    there, back = f"web:there{len(old)}", tmp_path / "back"
    assert shell.run("scp", *old, tmp_path / "file", there).returncode == 0
    assert shell.run("scp", *old, there, back).returncode == 0
    assert back.read_bytes() == BULK
    assert (shell.home / f"there{len(old)}").read_bytes() == BULK


def test_sftp_names(shell: Shell) -> None:
    batch = b"mkdir deep\ncd deep\npwd\ncd ..\nls\nls -l /etc/passwd\nrmdir deep\n"
    done = shell.run("sftp", "-b", "-", "web", text=batch)
    assert done.returncode == 0, done.stderr
    home = shell.says("echo $HOME").strip()
    assert f"Remote working directory: {home}/deep\n" in done.stdout.decode()
    assert b"/etc/passwd" in done.stdout


def test_another_subsystem_is_not_there(shell: Shell) -> None:
    assert shell.run("ssh", "-s", "web", "netconf").returncode == 1


def test_forwards_of_both_kinds(shell: Shell, tmp_path: Path) -> None:
    done = shell.run("ssh", "-W", f"127.0.0.1:{shell.port}", "web")
    assert done.stdout.startswith(b"SSH-2.0-")
    remote = shell.run(
        "ssh", "-R", f"127.0.0.1:0:127.0.0.1:{shell.port}", "-o", "LogLevel=INFO",
        "-o", "ExitOnForwardFailure=yes", "web", "true",
    )  # fmt: skip
    assert b"Allocated port" in remote.stderr
    wide = shell.run("ssh", "-R", "0.0.0.0:0:127.0.0.1:1", "-o", "ExitOnForwardFailure=yes",
                     "web", "true")  # fmt: skip
    assert wide.returncode == 255


@pytest.mark.parametrize(
    "options",
    [
        ("-o", "User=root"),  # not in the certificate
        ("-o", "IdentityFile=none", "-o", "CertificateFile=none"),
        ("-o", "PreferredAuthentications=none,password,keyboard-interactive"),
    ],
)
def test_only_the_account_s_certificate_is_let_in(shell: Shell, options: tuple[str, ...]) -> None:
    done = shell.run("ssh", *options, "web", "true")
    assert done.returncode == 255
    assert b"Permission denied (publickey)" in done.stderr


def test_a_key_without_the_certificate_is_not_enough(shell: Shell, tmp_path: Path) -> None:
    for name in ("stranger", "stranger.pub"):
        (tmp_path / name).write_bytes((shell.directory / name).read_bytes())
    (tmp_path / "stranger").chmod(0o600)
    run("ssh-keygen", "-q", "-s", tmp_path / "stranger", "-I", "x", "-n", "deploy",
        tmp_path / "stranger.pub")  # fmt: skip
    config = (shell.directory / "config").read_text()
    (tmp_path / "config").write_text(
        config.replace(f"{shell.directory}/id", f"{tmp_path}/stranger")
    )
    done = subprocess.run(
        ["ssh", "-F", tmp_path / "config", "web", "true"], capture_output=True, check=False
    )
    assert done.returncode == 255


def test_nothing_stays_behind_whatever_it_did() -> None:
    with tempfile.TemporaryDirectory(prefix="gwshell") as name:
        server = Shell(Path(name))
        # It has left its terminal, its group and its parent.
        server.says("nohup setsid sh -c 'echo $$ > pid; exec sleep 63' >/dev/null 2>&1 & while"
                    " ! [ -s pid ]; do sleep 0.1; done")  # fmt: skip
        daemon = psutil.Process(int((server.home / "pid").read_text()))
        assert daemon.is_running()
        # Each thread of a parent that is killed has the kernel tell it, while it ends.
        while server.process.poll() is None:
            server.process.terminate()
        assert server.process.returncode == 0
        assert psutil.wait_procs([daemon], PATIENCE)[1] == []
