"""What can be wrong with an input or a checkpoint. All are `ValueError`s: a user can cause each of them.

ModelError
├── CheckpointError        a file of a checkpoint is missing, broken, foreign or has the wrong shape
└── InputError
    ├── ImageFormatError   the bytes are not an image of an allowed format
    ├── BrokenImageError   the format is allowed but the bytes do not decode
    ├── ImageTooLargeError more pixels than allowed (read from the header, before decoding)
    └── TextTooLongError   more tokens than the head takes
"""


class ModelError(ValueError):
    """Base of everything this package raises for a user's mistake."""


class CheckpointError(ModelError):
    """One clear line that names the file and, where there is one, the tensor."""


class InputError(ModelError):
    """An image or a text that a head cannot take."""


class ImageFormatError(InputError):
    """The bytes are not an image of an allowed format."""


class BrokenImageError(InputError):
    """The bytes start like an allowed image but do not decode."""


class ImageTooLargeError(InputError):
    """The header declares more pixels than allowed."""


class TextTooLongError(InputError):
    """More tokens than the head was trained for."""
