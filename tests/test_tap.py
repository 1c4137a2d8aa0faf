"""The plug-in's options: what ``twist gateway`` refuses before anything is started."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from twisted.application.service import IService, IServiceMaker
from twisted.internet import reactor, selectreactor
from twisted.plugin import getPlugins
from twisted.python import usage

from gateway.tap import Options, makeService

LEAST = "listeners: [{address: 127.0.0.1:0, protocols: [postgresql]}]\n"


def parsed(*arguments: str) -> Options:
    options = Options()
    options.parseOptions(list(arguments))
    return options


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(LEAST)
    return path


def test_the_configuration_is_judged_before_the_daemon_starts(config: Path) -> None:
    options = parsed("--config", str(config))
    assert options["path"] == config
    assert len(options["configuration"].listeners) == 1
    service = makeService(options)
    assert IService.providedBy(service)
    assert not service.running


def test_a_hang_up_before_the_daemon_starts_does_not_end_it(config: Path) -> None:
    parsed("--config", str(config))
    signal.raise_signal(signal.SIGHUP)


def test_the_environment_names_it(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_CONFIG", str(config))
    assert parsed()["path"] == config


def test_mistakes_are_told_line_by_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(LEAST + "listners: []\ndrain_seconds: soon\n")
    with pytest.raises(SystemExit) as ended:
        parsed("--config", str(config))
    assert ended.value.code == 78
    assert capsys.readouterr().err == (
        f"{config}:2:1: listners: unknown key\n"
        f"{config}:3:16: drain_seconds: should be a valid number\n"
    )


def test_no_other_reactor(monkeypatch: pytest.MonkeyPatch) -> None:
    import twisted.internet

    monkeypatch.setattr(
        twisted.internet,
        "reactor",
        selectreactor.SelectReactor.__new__(selectreactor.SelectReactor),
    )
    with pytest.raises(usage.UsageError, match="leave --reactor out"):
        Options()
    assert reactor is not twisted.internet.reactor


def test_twist_finds_it() -> None:
    (maker,) = [each for each in getPlugins(IServiceMaker) if each.tapname == "gateway"]
    assert (maker.module, maker.options) == ("gateway.tap", Options)
