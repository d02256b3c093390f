"""From the fields of a request to jobs: pictures decoded, texts tokenised. Runs in worker threads."""

import re

import pybase64

from vlmoe_model.errors import InputError
from vlmoe_model.inputs import Example, Job
from vlmoe_serve.catalog.models import ServedModel
from vlmoe_serve.encoding.pictures import Pictures
from vlmoe_serve.errors import BadRequest, InvalidField, UrlNotAllowed, from_input_error
from vlmoe_serve.validation import shown

_DATA_URL = re.compile(r"data:[^,]{0,256},", re.IGNORECASE)
_URL = re.compile(r"[a-z][a-z0-9+.-]{0,15}://", re.IGNORECASE)


def image_bytes(source: str | bytes, param: str = "image") -> bytes:
    """The file that an `image` field carries.

    Raises:
        UrlNotAllowed: a link. BadRequest: neither base64 nor a data: URL of base64.
    """
    if isinstance(source, bytes):
        return source
    start = _DATA_URL.match(source[:300])
    if start is not None:
        if not start.group().lower().endswith(";base64,"):
            raise BadRequest("a data: URL must be base64", param=param, code="invalid_base64")
        source = source[start.end() :]
    elif _URL.match(source):
        raise UrlNotAllowed(f"images by URL are not allowed on this server, got {shown(source)}", param=param)
    try:
        return _from_base64(source)
    except ValueError as error:
        raise BadRequest(
            f"must be base64 or a data: URL, got {shown(source)}: {error}", param=param, code="invalid_base64"
        ) from None


def _from_base64(text: str) -> bytes:
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError:
        # lines of 76, as the base64 program writes them
        return pybase64.b64decode(text.replace("\r", "").replace("\n", ""), validate=True)


def job(
    model: ServedModel,
    head: str,
    *,
    pictures: Pictures,
    image: str | bytes | None = None,
    text: str | None = None,
    text_pair: str | None = None,
    text_param: str = "text",
) -> Job:
    """One example for a head.

    Raises:
        ServeError: with the field that is wrong.
    """
    picture, param = None, text_param
    try:
        if image is not None:
            param = "image"
            picture = pictures.load(image_bytes(image), model.processor.image_spec(head))
            param = text_param if text is not None else "image"
        example: Example = model.processor.example(head, image=picture, text=text, text_pair=text_pair)
    except InputError as error:
        raise from_input_error(error, param) from error
    return Job(head, example)


def one_of(image: object, text: object) -> None:
    """Exactly one of two fields must be given.

    Raises:
        InvalidField: none or both are.
    """
    if (image is None) == (text is None):
        problem = "image or text is missing" if image is None else "give image or text, not both"
        raise InvalidField(problem, param="image" if image is None else "text")
