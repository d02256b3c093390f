import subprocess
import sys

PROGRAM = """
import asyncio
from vlmoe_loadtests.endings import exit_on_sigterm

async def main():
    try:
        print("begun", flush=True)
        await asyncio.sleep(600)
    finally:
        print("ended")

exit_on_sigterm()
asyncio.run(main())
"""


def test_what_is_open_is_closed():
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.terminate()
        assert process.stdout.read() == "ended\n"
    assert process.returncode == 143
