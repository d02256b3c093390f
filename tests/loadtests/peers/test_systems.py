import json
from pathlib import Path

import pytest

from peers.apps import answering
from peers.systems import APPS, MAX_BATCH, MAX_INSIDE, OURS, SYSTEMS, Launch
from vlmoe_loadtests.mixes import Ask, asks

ANSWER = {"answers": [{"answer": "two", "score": 0.9}, {"answer": "one", "score": 0.1}]}
# what a server that answers like this says
SAID = {
    "mlserver": {"outputs": [{"name": "answers", "data": [json.dumps(ANSWER)]}]},
    "bentoml": [ANSWER],
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_each_is_told_its_port_and_its_answer_is_read(name, tmp_path):
    system = SYSTEMS[name]
    command = system.command(Launch(Path("/env/bin/python"), 4711, tmp_path))
    files = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "4711" in " ".join(command) + files or command[1].startswith(str(APPS)), "programs read PEERS_PORT"
    assert all(Path(part).exists() for part in command if part.startswith(str(APPS)))
    assert system.best(SAID.get(name, ANSWER)) == "two"


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_server_is_asked_the_same_questions(name):
    wanted = asks("small-vqa", 0)[:3]
    for ask, theirs in zip(wanted, SYSTEMS[name].asks(wanted), strict=True):
        body = json.loads(ask.body)
        told = theirs.body.decode()
        assert body["image"] in told
        assert body["question"] in told
        assert len(theirs.body) < len(ask.body) + 200


def test_ours_is_asked_as_it_is():
    (ask,) = SYSTEMS[OURS].asks([Ask("vqa", "/vqa", b'{"image": "", "question": "?"}')])
    assert (ask.path, json.loads(ask.body)) == ("/vqa", {"image": "", "question": "?"})


def test_programs_and_table_tell_the_same_limits():
    assert (answering.MAX_BATCH, answering.MAX_INSIDE) == (MAX_BATCH, MAX_INSIDE)
