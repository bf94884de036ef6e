"""Files from elsewhere never choose what is run: only the command line and one's own folder do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sepdeploy.cli import run
from sepdeploy.devices.profile import DeviceProfile, profile
from sepdeploy.errors import BadInput

BASE = 'extends = "rpi4"\nid = "board"\n[transport]\n'
CHOOSING = {
    'kind = "local"': "transport.kind",
    'python = "/tmp/evil"': "transport.python",
    'ssh_config = "evil"': "transport.ssh_config",
    'kind = "local"\npython = "/tmp/evil"': "transport.kind",
}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    folder = tmp_path / "own/sepdeploy/devices"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(("line", "key"), CHOOSING.items(), ids=CHOOSING.values())
def test_a_profile_from_elsewhere_may_not(
    tmp_path: Path, settings: Path, line: str, key: str
) -> None:
    path = tmp_path / "board.toml"
    path.write_text(BASE + line)
    with pytest.raises(BadInput, match=f"{key} = .*never choose what is run") as error:
        profile(str(path))
    assert str(settings) in error.value.hint
    path.rename(settings / "board.toml")
    assert isinstance(profile("board"), DeviceProfile)
    assert isinstance(profile(str(settings / "board.toml")), DeviceProfile)


def test_a_profile_that_takes_over_this_machine_may_not(tmp_path: Path, settings: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text('extends = "host"\nid = "board"\n')
    with pytest.raises(BadInput, match=r"transport\.kind = 'local'"):
        profile(str(path))


def test_what_is_no_program_may_be_said_by_any_profile(tmp_path: Path, settings: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(BASE + 'host = "pi@board"\nport = 2222\nworkdir = "/data/sd"\n')
    assert profile(str(path)).transport.host == "pi@board"


def test_a_recipe_may_not_choose_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chosen_code.py").write_text(
        "from pathlib import Path\nPath('ran').touch()\n"
        "import torch\ndef net():\n    return torch.nn.Sequential("
        "torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    )
    (tmp_path / "r.toml").write_text(
        'arch = "chosen_code:net"\ndata = "digits"\nepochs = 1\nobjective = "natural"\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for typed in ([], ["--epochs", "1"]):
        assert run(["train", "r.toml", "-o", "m.pt", *typed]) == 2
        said = capsys.readouterr().err
        assert "files never choose code" in said
        assert "--arch chosen_code:net" in said
        assert not Path("ran").exists()
    assert run(["train", "r.toml", "-o", "m.pt", "-q", "--arch", "chosen_code:net"]) == 0
    assert Path("ran").exists()
