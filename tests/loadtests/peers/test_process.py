"""A server's processes, with small programs for servers."""

import asyncio
import os
import sys

import pytest

from peers.process import NotStarted, family, free_port, running
from vlmoe_loadtests.mixes import Ask

ASK = Ask("one", "/", b"{}")
# answers 200, and has a child that left its session and its parent
PARENT = """
import http.server, os, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
class Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *told): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


def test_all_processes_are_counted_and_ended(tmp_path):
    async def main():
        port = free_port()
        command = [sys.executable, "-c", PARENT, str(port)]
        async with running(command, {}, ASK, port, tmp_path / "log") as server:
            found = family(server.pid, server.mark)
            assert server.pid in found
            assert len(found) == 2
            assert server.first.status == 200
            assert server.start_s > 0
            assert server.pss_mb() > 1
            assert server.cpu_s() > 0
        return server

    server = asyncio.run(main())
    assert family(server.pid, server.mark) == set()


def test_a_server_stays_on_its_cores(tmp_path):
    core = min(os.sched_getaffinity(0))

    async def main():
        port = free_port()
        command = [sys.executable, "-c", PARENT, str(port)]
        async with running(command, {}, ASK, port, tmp_path / "log", cores=[core]) as server:
            return [os.sched_getaffinity(pid) for pid in family(server.pid, server.mark)]

    assert asyncio.run(main()) == [{core}] * 2


def test_what_a_server_wrote_is_told_when_it_does_not_start(tmp_path):
    async def main():
        command = [sys.executable, "-c", "raise SystemExit('no model here')"]
        async with running(command, {}, ASK, free_port(), tmp_path / "log"):
            pass

    with pytest.raises(NotStarted, match="no model here"):
        asyncio.run(main())
