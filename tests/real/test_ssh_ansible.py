"""Ansible over the gateway, with its own persistent connections."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.ssh_clients import Person
from tests.real.ssh_servers import SshGateway, UnixUser

pytest_plugins = ["tests.real.ssh_fixtures"]

PLAYBOOK = """\
- hosts: all
  gather_facts: true
  tasks:
    - name: a tree from here
      copy: {{src: "{tree}/", dest: "{there}/tree/"}}
    - name: a file with what is known of the host
      copy: {{dest: "{there}/facts", content: "{{{{ ansible_facts.user_id }}}}\\n"}}
    - name: a command
      command: cat {there}/facts
      register: told
    - name: what it said
      assert: {{that: "told.stdout == '{account}'"}}
    - name: back again
      fetch: {{src: "{there}/tree/7", dest: "{back}/", flat: true}}
"""


class Ansible:
    """Ansible as somebody's, with a host for each way through the gateway."""

    def __init__(self, person: Person, directory: Path, account: str) -> None:
        self._directory = directory
        self._environment = {
            **person.env(),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_HOME": str(directory),
            "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=20s",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(directory / "cp"),
            "ANSIBLE_SSH_EXECUTABLE": shutil.which("ssh") or "ssh",
        }
        hosts = {
            "straight": {"ansible_host": "127.0.0.1", "ansible_user": "alice#web"},
            "jump": {
                "ansible_host": "web.gw.test",
                "ansible_user": account,
                "ansible_ssh_extra_args": f"-J alice@127.0.0.1:{person.gateway.ssh_port}",
            },
        }
        common = {
            "ansible_ssh_common_args": f"-F {person.config}",
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        self._inventory = directory / "inventory.json"
        self._inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": common}}))

    def run(self, program: str, *arguments: str | Path) -> str:
        """What it prints when all went well."""
        done = subprocess.run(
            [Path(sys.executable).with_name(program), "-i", self._inventory, *arguments],
            env=self._environment,
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def ansible(alice: Person, deploy: UnixUser, ssh_tmp: Path) -> Iterator[Ansible]:
    directory = ssh_tmp / "ansible"
    directory.mkdir()
    yield Ansible(alice, directory, deploy.name)
    for control in (directory / "cp").glob("*"):
        alice.having(f"ControlPath={control}").run("ssh", "-O", "exit", "whoever")


def test_ping_and_a_playbook(
    ansible: Ansible, ssh_gateway: SshGateway, deploy: UnixUser, tmp_path: Path
) -> None:
    pinged = ansible.run("ansible", "all", "-m", "ping", "-o")
    assert sorted(line.partition(" =>")[0] for line in pinged.splitlines()) == [
        "jump | SUCCESS",
        "straight | SUCCESS",
    ]

    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(10):
        (tree / str(number)).write_text(f"{number}\n")
    playbook = tmp_path / "playbook.yml"
    places = {"there": deploy.home / "by_ansible", "tree": tree, "back": tmp_path}
    playbook.write_text(PLAYBOOK.format(account=deploy.name, **places))
    assert "failed=0" in ansible.run("ansible-playbook", "-l", "straight", playbook)
    assert (tmp_path / "7").read_text() == "7\n"

    sessions = [row for row in ssh_gateway.call("sessions")["sessions"] if row["statements"]]
    assert len(sessions) == 2  # one for each host: its connection lasts
    straight = max(sessions, key=lambda row: row["statements"])
    told = ssh_gateway.events(straight["id"])
    assert len([event for event in told if event["kind"] == "exec"]) > 10
    written = [e["path"] for e in told if e["kind"] == "file" and e["operation"] == "write"]
    assert any(path.endswith("/AnsiballZ_command.py") for path in written)
