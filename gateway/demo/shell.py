"""The SSH server ``web``: shells, commands and files of the user it runs as.

``python -m gateway.demo.shell``, in the directory that is to be the home; ``web`` starts it.
It is of a size for the demo: it lets in who has the gateway's certificate for the one
account, on 127.0.0.1, and does for them what OpenSSH's would. A real target is an sshd.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import pwd
import signal
import socket
import sys
import termios
from argparse import ArgumentParser, Namespace
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import asyncssh
from attrs import define

from gateway.demo.processes import adopt_orphans, die_with_parent, end_children, show_to_own_user

LOGIN_SECONDS = 15  # as the gateway has it
HELD = 0.5  # seconds for the last of a terminal that something in the background keeps open
READ = 65_536  # bytes at once: what a pipe holds
SHELL = next((shell for shell in ("/bin/bash", "/bin/sh") if os.access(shell, os.X_OK)), "/bin/sh")
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"


def main() -> None:
    """Serve until SIGTERM. Begins as root, if the demo does, and goes on as ``--user``."""
    asked = _arguments(sys.argv[1:])
    parent = os.getppid()
    adopt_orphans()
    try:
        asyncio.run(_serve(asked, parent))
    finally:
        end_children()


def _arguments(words: list[str]) -> Namespace:
    parser = ArgumentParser(prog="gateway.demo.shell")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host-key", type=Path, required=True)
    parser.add_argument("--trusted", required=True, help="public key of the user CA")
    parser.add_argument("--account", required=True)
    parser.add_argument("--user", help="to become")
    return parser.parse_args(words)


async def _serve(asked: Namespace, parent: int) -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(told.set))
    host_key = asyncssh.import_private_key(asked.host_key.read_bytes())
    trusted = asyncssh.import_public_key(asked.trusted)
    with socket.create_server(("127.0.0.1", asked.port)) as door:
        # What Python imports at the first look-up may lie where only root can read it.
        await loop.getaddrinfo("localhost", None)
        _become(asked.user)
        die_with_parent(signal.SIGTERM, parent)
        home = _home()
        server = await asyncssh.listen(
            sock=door,
            server_factory=partial(Guests, asked.account, trusted),
            server_host_keys=[host_key],
            process_factory=partial(_run, home),
            sftp_factory=partial(Files, home),
            allow_scp=True,
            encoding=None,
            line_editor=False,
            password_auth=False,
            kbdint_auth=False,
            host_based_auth=False,
            gss_host=None,
            agent_forwarding=False,
            login_timeout=LOGIN_SECONDS,
        )
        async with server:
            await told.wait()
            # Each thread of a demo that is killed sends one, as it ends.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _become(name: str | None) -> None:
    """For good: no process of this user gets back what root may do."""
    if name is None:
        return
    user = pwd.getpwnam(name)
    os.setgroups([])
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)


def _home() -> str:
    """A name of this directory by which its user can reach it, from wherever they are."""
    name = str(Path.cwd())
    if os.access(name, os.W_OK | os.X_OK):
        return name
    # It is below what is root's alone. The kernel leads those to it who may look at us.
    show_to_own_user()
    return f"/proc/{os.getpid()}/cwd"


class Guests(asyncssh.SSHServer):
    """One connection. Who is in may forward as its certificate says: the gateway asks the
    roles."""

    def __init__(self, account: str, trusted: asyncssh.SSHKey) -> None:
        self._account = account
        self._trusted = trusted

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_ca_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """asyncssh looks whether the certificate is for *username*, and in force."""
        return username == self._account and key.public_data == self._trusted.public_data

    def connection_requested(self, *where: object) -> bool:
        return True

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        return listen_host in ("localhost", "127.0.0.1")

    def unix_connection_requested(self, dest_path: str) -> bool:
        return True

    def unix_server_requested(self, listen_path: str) -> bool:
        return True


class Files(asyncssh.SFTPServer):
    """Relative names begin at *home*."""

    def __init__(self, home: str, channel: Any) -> None:
        super().__init__(channel)
        self._home = os.fsencode(home)

    def map_path(self, path: bytes) -> bytes:
        return os.path.join(self._home, path)

    def realpath(self, path: bytes) -> bytes:
        """Without a look at links: what is above *home* may not be ours to read."""
        return os.path.normpath(self.map_path(path))

    def exit(self) -> None:
        """OpenSSH's scp takes an sftp that ends without a status for one that failed."""
        if self.channel.get_subsystem() is not None and not self.channel.is_closing():
            self.channel.exit(0)


# -- shells and commands -------------------------------------------------------------------

Channel = asyncssh.SSHServerProcess[bytes]


@define
class Program:
    """A shell or a command, and our ends of its streams, which do not block.

    :ivar input: -1 when it is closed; at a terminal it is also the output
    """

    process: Process
    input: int
    outputs: Mapping[int, asyncssh.SSHWriter[bytes]]
    terminal: bool

    def resize(self, columns: int, rows: int) -> None:
        if self.terminal:
            termios.tcsetwinsize(self.input, (rows, columns))

    def signal(self, name: str) -> None:
        """As kill(1) names it, to all that it has started and that did not leave it."""
        number = getattr(signal, f"SIG{name}", None)
        if isinstance(number, signal.Signals):
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def end_input(self) -> None:
        if self.input >= 0 and not self.terminal:
            os.close(self.input)
            self.input = -1

    def flush(self) -> None:
        """Send what has been said and not been read."""
        for output, sink in self.outputs.items():
            with suppress(OSError):  # there is no more
                while data := os.read(output, READ):
                    sink.write(data)

    def close(self) -> None:
        """Hang up."""
        self.signal("HUP")
        self.signal("CONT")
        self.end_input()
        for output in self.outputs:
            os.close(output)


async def _run(home: str, channel: Channel) -> None:
    if channel.subsystem is not None:
        channel.exit(1)  # sftp is the only one, and does not come here
        return
    program = await _start(home, channel)
    working = asyncio.ensure_future(_carry(channel, program))
    gone = asyncio.ensure_future(channel.wait_closed())
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        working.cancel()
        await asyncio.wait({working})
        program.close()
    if not working.cancelled():
        _exit(channel, working.result())


def _exit(channel: Channel, code: int) -> None:
    if code < 0:
        channel.exit_with_signal(signal.Signals(-code).name.removeprefix("SIG"))
    else:
        channel.exit(code)


async def _carry(channel: Channel, program: Program) -> int:
    """What comes and goes, until *program* has ended and all that it said is sent."""
    feeding = asyncio.ensure_future(_feed(channel, program))
    copying = asyncio.ensure_future(_copy_all(program))
    try:
        code = await program.process.wait()
        # As with sshd: what is left running keeps a command's pipes open, but no terminal.
        await asyncio.wait({copying}, timeout=HELD if program.terminal else None)
    finally:
        feeding.cancel()
        copying.cancel()
        await asyncio.wait({feeding, copying})
    program.flush()
    return code


async def _copy_all(program: Program) -> None:
    await asyncio.gather(*(_copy(output, sink) for output, sink in program.outputs.items()))


async def _copy(output: int, sink: asyncssh.SSHWriter[bytes]) -> None:
    loop = asyncio.get_running_loop()
    while data := await _when(loop.add_reader, loop.remove_reader, output, os.read, READ):
        sink.write(data)
        with suppress(BrokenPipeError):  # nobody listens; what it says is read all the same
            await sink.drain()


async def _feed(channel: Channel, program: Program) -> None:
    loop = asyncio.get_running_loop()
    while data := await _next(channel, program):
        while data:
            sent = await _when(loop.add_writer, loop.remove_writer, program.input, os.write, data)
            if not sent:
                return  # it does not read any more
            data = data[sent:]
    program.end_input()


async def _next(channel: Channel, program: Program) -> bytes:
    """What is typed; b"" at its end. Signals and sizes come in between."""
    while True:
        try:
            return await channel.stdin.read(READ)
        except asyncssh.TerminalSizeChanged as changed:
            program.resize(changed.width, changed.height)
        except asyncssh.SignalReceived as sent:
            program.signal(sent.signal)
        except asyncssh.BreakReceived:
            pass


async def _when(
    watch: Callable[..., None],
    leave: Callable[[int], bool],
    descriptor: int,
    call: Callable[[int, Any], Any],
    argument: int | bytes,
) -> Any:
    """What *call* returns as soon as it need not wait; nothing if the other end is closed."""
    while True:
        try:
            return call(descriptor, argument)
        except BlockingIOError:
            ready = asyncio.Event()
            watch(descriptor, ready.set)
            try:
                await ready.wait()
            finally:
                leave(descriptor)
        except OSError:  # EPIPE, and what a terminal has for it: EIO
            return b""


async def _start(home: str, channel: Channel) -> Program:
    if channel.term_type is None:
        return await _with_pipes(home, channel)
    ours, theirs = pty.openpty()
    columns, rows, _, _ = channel.term_size
    termios.tcsetwinsize(ours, (rows, columns))
    try:
        process = await _started(home, channel, (theirs, theirs, theirs), _take_terminal)
    finally:
        os.close(theirs)
    os.set_blocking(ours, False)
    return Program(process, ours, {ours: channel.stdout}, terminal=True)


async def _with_pipes(home: str, channel: Channel) -> Program:
    (stdin, into), (out, stdout), (err, stderr) = os.pipe(), os.pipe(), os.pipe()
    try:
        process = await _started(home, channel, (stdin, stdout, stderr), None)
    finally:
        for theirs in (stdin, stdout, stderr):
            os.close(theirs)
    for ours in (into, out, err):
        os.set_blocking(ours, False)
    outputs = {out: channel.stdout, err: channel.stderr}
    return Program(process, into, outputs, terminal=False)


async def _started(
    home: str,
    channel: Channel,
    streams: tuple[int, int, int],
    prepare: Callable[[], None] | None,
) -> Process:
    stdin, stdout, stderr = streams
    command = ("-c", channel.command) if channel.command is not None else ()
    name = SHELL if command else f"-{Path(SHELL).name}"  # the "-" makes it a log-in shell
    return await asyncio.create_subprocess_exec(
        name,
        *command,
        executable=SHELL,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=_environment(home, channel),
        start_new_session=True,
        preexec_fn=prepare,
    )


def _environment(home: str, channel: Channel) -> dict[str, str]:
    account = channel.get_extra_info("username")
    own = {"HOME": home, "PWD": home, "PATH": PATH, "SHELL": SHELL}
    who = {"USER": account, "LOGNAME": account}
    terminal = {} if channel.term_type is None else {"TERM": channel.term_type}
    return {**_sent(channel), **own, **who, **terminal}


def _sent(channel: Channel) -> dict[str, str]:
    """What the client wants in the environment: the gateway passes what is harmless."""
    return {str(name): str(value) for name, value in channel.env.items()}


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


if __name__ == "__main__":
    main()
