"""What the network says without any server."""

import pytest

from vlmoe_model.checkpoint.directory import open_directory
from vlmoe_model.images import open_image
from vlmoe_model.inputs import Job
from vlmoe_model.runner import Runner


@pytest.fixture(scope="module")
def runner(checkpoint):
    return Runner.load(checkpoint, dtype="fp32", threads=1)


@pytest.fixture(scope="module")
def bare(runner, checkpoint):
    """bare(head, **inputs): what the network says without any server."""
    processor = open_directory(checkpoint).processor()

    def run(head, *, image=None, **texts):
        picture = None if image is None else open_image(image)
        return runner.run([Job(head, processor.example(head, image=picture, **texts))])[0]

    return run
