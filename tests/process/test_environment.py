import sys

import pytest

from sdmanager.process import child_environment, run


@pytest.fixture
def variables(monkeypatch):
    """Replaces the environment of this process."""

    def variables(**values):
        monkeypatch.setattr("os.environ", values)

    return variables


def test_settings_of_this_interpreter_and_of_the_shell_are_left_out(variables):
    variables(
        HOME="/h",
        PYTHONPATH="x",
        PYTHONHOME="y",
        PYTHONWARNINGS="z",
        ENV="e",
        BASH_ENV="b",
        SHELLOPTS="xtrace",
    )
    assert child_environment() == {"HOME": "/h", "LC_NUMERIC": "C"}


def test_secrets_are_left_out_unless_they_are_meant_for_the_child(variables):
    variables(HOME="/h", SDMANAGER_TOKEN="a", LLAMA_API_KEY="b")
    assert child_environment() == {"HOME": "/h", "LC_NUMERIC": "C"}
    assert child_environment({"LLAMA_API_KEY": "c"})["LLAMA_API_KEY"] == "c"


def test_everything_else_stays(variables):
    kept = {
        "LD_PRELOAD": "libx.so",
        "LD_LIBRARY_PATH": "/l",
        "CUDA_VISIBLE_DEVICES": "1",
        "LANG": "de_DE.UTF-8",
    }
    variables(**kept, LC_NUMERIC="de_DE.UTF-8")
    assert child_environment() == {**kept, "LC_NUMERIC": "C"}


def test_lc_all_keeps_its_meaning_for_everything_but_numbers(variables):
    variables(LC_ALL="de_DE.UTF-8", LC_CTYPE="C", LANG="C")
    assert child_environment() == {"LANG": "de_DE.UTF-8", "LC_NUMERIC": "C"}


def test_empty_lc_all_changes_nothing_else(variables):
    variables(LC_ALL="", LC_CTYPE="C.UTF-8", LANG="C")
    assert child_environment() == {"LC_CTYPE": "C.UTF-8", "LANG": "C", "LC_NUMERIC": "C"}


def test_extra_variables_win(variables):
    variables(A="1", LC_ALL="C")
    assert child_environment({"A": "2", "LC_NUMERIC": "x", "PYTHONPATH": "p"}) == {
        "A": "2",
        "LANG": "C",
        "LC_NUMERIC": "x",
        "PYTHONPATH": "p",
    }


def test_bundled_application_restores_the_library_path(variables, monkeypatch):
    monkeypatch.setattr(sys, "_MEIPASS", "/bundle", raising=False)
    variables(LD_LIBRARY_PATH="/bundle", LD_LIBRARY_PATH_ORIG="/usr/lib/cuda")
    assert child_environment() == {"LD_LIBRARY_PATH": "/usr/lib/cuda", "LC_NUMERIC": "C"}
    variables(LD_LIBRARY_PATH="/bundle")
    assert child_environment() == {"LC_NUMERIC": "C"}


def test_result_is_a_copy(variables):
    variables(A="1")
    child_environment()["A"] = "2"
    assert child_environment()["A"] == "1"


async def test_it_is_what_children_get_by_default(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    completed = await run(["/bin/sh", "-c", 'echo "$LC_ALL|$LANG|$LC_NUMERIC|$PYTHONPATH"'])
    assert completed.stdout == b"|C.UTF-8|C|\n"
