"""What can go wrong with an engine, as the supervisor tells it. The batcher turns these into answers.

EngineFailure
├── EngineStartError   it could not load or warm up; the message is its own reason, one line
├── EngineDied         the process ended, or was ended because it hung, before it answered
├── EngineDown         it has been down for longer than callers should wait
└── BatchFailed        it is alive and says that this batch raised
"""


class EngineFailure(RuntimeError):
    """Base of the tree; the message is one line."""


class EngineStartError(EngineFailure):
    """The engine could not load or warm up."""


class EngineDied(EngineFailure):
    """The process ended before it answered.

    suspect: this batch was being computed. A batch that only waited behind another one is innocent.
    """

    def __init__(self, message: str, *, suspect: bool) -> None:
        super().__init__(message)
        self.suspect = suspect


class EngineDown(EngineFailure):
    """The engine has been down for longer than callers should wait."""


class BatchFailed(EngineFailure):
    """The engine raised while it computed this batch."""
