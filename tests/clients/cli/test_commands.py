"""The commands that talk to a server: in this process mostly, as real processes where that is the point."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlmoe_client.cli import main

VLMOE = Path(sys.executable).with_name("vlmoe")


@pytest.fixture
def shoe(tmp_path: Path, png: bytes) -> Path:
    path = tmp_path / "shoe.png"
    path.write_bytes(png)
    return path


@pytest.fixture
def run(server, capsys, monkeypatch):
    """Runs one command line against the server; gives code, stdout, stderr."""
    monkeypatch.setenv("VLMOE_URL", server.url)

    def run(*argv: object) -> tuple[int, str, str]:
        code = main([str(each) for each in argv])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_ask(run, shoe, png, digest_of):
    assert run("ask", shoe, "what is this?") == (0, f"0.750  {digest_of(png)}\n0.250  what is this?\n", "")


def test_ask_as_json(run, shoe, png, digest_of, server):
    code, out, _ = run("ask", shoe, "what?", "--json", "--top-k", "1", "--model", "big", "--api-key", "k")
    result = json.loads(out)
    assert code == 0
    assert result["answers"] == [{"answer": digest_of(png), "score": 0.75}]
    assert result["model"] == "big"
    assert result["timings"]["forward_ms"] == 8.0
    assert server.seen[0].headers["authorization"] == "Bearer k"


def test_ask_takes_the_picture_from_standard_input(run, png, digest_of, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(png)))
    assert digest_of(png) in run("ask", "-", "what?")[1]


def test_classify(run, shoe, server):
    assert run("classify", shoe) == (0, "0.500  cat\n0.333  dog\n", "")
    assert run("classify", shoe, "--labels", "a shoe, a hat,") == (0, "0.500  a shoe\n0.333  a hat\n", "")
    assert run("classify", "--text", "it rains", "--text-pair", "it is wet")[0] == 0
    assert server.seen[-1].body == {"text": "it rains", "text_pair": "it is wet"}
    assert run("classify", shoe, shoe, "--text", "both are red")[0] == 0
    assert len(server.seen[-1].body["images"]) == 2


def test_add_and_search(run, shoe, server, tmp_path):
    (tmp_path / "note.txt").write_text("a shoe\n")
    (tmp_path / "other.csv").write_text("ignored in a folder")
    assert run("add", "gallery", tmp_path) == (0, "2 added to gallery\n", "")
    assert server.collections["gallery"]["note.txt"]["text"] == "a shoe"
    assert run("search", "gallery", "a red shoe") == (0, "0.500  shoe.png\n0.500  note.txt\n", "")
    assert run("search", "gallery", shoe, "--top-k", "1") == (0, "0.500  shoe.png\n", "")
    assert "image" in server.seen[-1].body
    assert run("search", "gallery", "shoe.png", "--as", "text")[0] == 0
    assert server.seen[-1].body["text"] == "shoe.png"


def test_add_that_fails_in_part_is_a_failed_job(run, shoe, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"broken")
    code, out, err = run("add", "gallery", shoe, tmp_path / "bad.png")
    assert (code, out, err) == (1, "1 added to gallery\n", "vlmoe add: bad.png: broken\n")


def test_a_refusal_is_exit_code_1_and_one_line(run, shoe, server, wrong):
    server.next(wrong.refuse(413, "too_large"))
    assert run("ask", shoe, "?") == (1, "", "vlmoe ask: 413 too_large: refused with 413 [image]\n")
    code, out, err = run("search", "none", "cat")
    assert (code, out) == (1, "")
    assert err == "vlmoe search: 404 collection_not_found: no collection 'none' [collection]\n"


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "vlmoe: the following arguments are required: COMMAND"),
        (["bogus"], "vlmoe: argument COMMAND: invalid choice: 'bogus'"),
        (["ask", "x.png"], "vlmoe ask: the following arguments are required: QUESTION"),
        (["ask", "none.png", "?"], "vlmoe ask: none.png: no such picture file"),
        (["ask", "none.png", "?", "--url", "nowhere"], "vlmoe ask: the server's URL must begin with http"),
        (["ask", "none.png", "?", "--timeout", "0"], "vlmoe ask: a timeout must be more than 0"),
        (["classify"], "vlmoe classify: give an IMAGE or --text"),
        (["search", "c", "none.png"], "vlmoe search: none.png: no such picture file; if these are words"),
        (["search", "c", "words", "--as", "image"], "vlmoe search: words: no such picture file"),
        (["add", "c", "none.png"], "vlmoe add: none.png: no such file"),
    ],
)
def test_bad_usage_is_exit_code_2_and_one_line(run, server, argv, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert err.startswith(line)
    assert err.count("\n") == 1
    assert server.seen == []


def test_files_that_cannot_be_added_are_bad_usage(run, shoe, png, tmp_path):
    folder = tmp_path / "more"
    folder.mkdir()
    assert run("add", "c", folder)[2] == f"vlmoe add: {folder}: no pictures in this folder\n"
    (folder / "shoe.png").write_bytes(png)
    code, _, err = run("add", "c", shoe, folder)
    assert (code, err) == (
        2,
        f"vlmoe add: {shoe} and {folder / 'shoe.png'} would both have the id 'shoe.png'\n",
    )
    (folder / "latin.txt").write_bytes(b"\xe9")
    assert run("add", "c", folder)[2] == f"vlmoe add: {folder / 'latin.txt'}: not UTF-8 text\n"
    assert (
        run("classify", shoe, shoe)[2]
        == "vlmoe classify: several pictures need the statement about them: --text\n"
    )


def test_the_program_itself(server, shoe, png, digest_of):
    environment = {**os.environ, "VLMOE_URL": server.url, "VLMOE_API_KEY": "from-env"}
    done = subprocess.run([VLMOE, "ask", shoe, "what?"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == f"0.750  {digest_of(png)}"
    assert server.seen[0].headers["authorization"] == "Bearer from-env"

    failed = subprocess.run([VLMOE, "search", "none", "cat"], env=environment, capture_output=True, text=True)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.count("\n") == 1


def test_a_reader_that_goes_away_is_no_traceback(server, shoe):
    command = f"'{VLMOE}' ask '{shoe}' what --url {server.url} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""
