import os
import signal

from ..waiting import wait_until


def test_a_changed_key_file_is_taken_up_on_sighup(start, tmp_path):
    file = tmp_path / "keys"
    file.write_text("old\n")
    server = start("--api-key-file", str(file), "--max-key-rate", "1000")

    def status(key):
        return server.client.get("/v1/models", headers={"x-api-key": key}).status_code

    assert (status("old"), status("new")) == (200, 401)
    file.write_text("new\n")
    os.kill(server.process.pid, signal.SIGHUP)
    wait_until(lambda: status("new") == 200)
    assert status("old") == 401
    assert server.end() == 0
