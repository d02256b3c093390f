"""Where environments lie. Making one takes minutes and gigabytes; `python -m peers --install` does that."""

import subprocess
import sys
from pathlib import Path

import pytest

from peers import environments
from peers.environments import EnvironmentFailed, Environments, NotInstalled, default_cache


def test_the_cache_is_the_users(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache() == Path("/somewhere/vlmoe/peers")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "vlmoe" / "peers"


def test_another_requirement_or_torch_is_another_environment(tmp_path):
    plain = Environments(tmp_path)
    paths = {
        plain.path("one", ["a==1"]),
        plain.path("one", ["a==2"]),
        plain.path("two", ["a==1"]),
        Environments(tmp_path, "torch==1.0").path("one", ["a==1"]),
    }
    assert len(paths) == 4
    assert plain.path("one", ["a==1"]) in paths


def test_a_finished_environment_is_used_as_it_is(tmp_path):
    made = Environments(tmp_path)
    path = made.path("one", ["a==1"])
    path.mkdir()
    (path / "installed").touch()
    assert made.python("one", ["a==1"]) == path / "bin" / "python"


def test_what_pip_says_is_told_and_the_attempt_is_not_taken_for_done(tmp_path):
    made = Environments(tmp_path, torch="--no-index no-such-torch==0.0.0")
    with pytest.raises(EnvironmentFailed, match=r"No matching distribution found for no-such-torch==0\.0\.0"):
        made.python("one", ["a==1"])
    assert not (made.path("one", ["a==1"]) / "installed").exists()


def test_what_is_not_installed_unasked_is_given_or_not_there(tmp_path):
    with pytest.raises(NotInstalled, match="name an interpreter that has it with --vllm-python"):
        Environments(tmp_path).python("vllm", [])
    assert Environments(tmp_path, given={"vllm": Path("/v")}).python("vllm", []) == Path("/v")


def test_a_torch_for_gpus_is_refused(tmp_path):
    (tmp_path / "torch.py").write_text("class version: cuda = '12.8'\n__version__ = '2.13.0+cu128'\n")
    done = subprocess.run(
        [sys.executable, "-c", environments.CPU_CHECK], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (1, "torch 2.13.0+cu128 is a build for GPUs: see --torch\n")
