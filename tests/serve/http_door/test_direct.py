import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from vlmoe_serve.errors import NotFound
from vlmoe_serve.http_door.direct import Direct


async def handled(request):
    return PlainTextResponse(
        f"handled {(await request.body()).decode()} as {request.scope['route'].path_format}"
    )


async def refused(request):
    raise NotFound("there is no such thing", param="thing")


async def left(request):
    raise ClientDisconnect


async def broken(request):
    raise ZeroDivisionError


async def other(request):
    return PlainTextResponse(f"the app: {request.method} {request.url.path}")


APP = Starlette(routes=[Route("/{path:path}", other, methods=["GET", "POST"])])
DOOR = Direct(APP, {"/vqa": handled, "/refused": refused, "/left": left, "/broken": broken})


def ask(method, path, **options):
    async def go():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(DOOR), base_url="http://x") as client:
            return await client.request(method, path, **options)

    return asyncio.run(go())


def test_a_post_to_a_tables_path_is_handled_there():
    assert ask("POST", "/vqa", content=b"it").text == "handled it as /vqa"


@pytest.mark.parametrize(("method", "path"), [("GET", "/vqa"), ("POST", "/vqa/"), ("POST", "/else")])
def test_everything_else_is_the_apps(method, path):
    assert ask(method, path).text == f"the app: {method} {path}"


def test_a_refusal_has_the_shape_of_all_errors():
    answer = ask("POST", "/refused")
    assert answer.status_code == 404
    assert answer.json()["error"]["param"] == "thing"


def test_a_caller_that_left_has_a_status_of_its_own():
    assert ask("POST", "/left").status_code == 499


def test_what_nobody_foresaw_goes_on_to_the_net():
    with pytest.raises(ZeroDivisionError):
        ask("POST", "/broken")
