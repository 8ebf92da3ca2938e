"""The API's own description, for programs and for people. Like everything but health it needs a key, of any role.

A browser can not be told to send a bearer token, but asks by itself for a name and a password: these two addresses
take the key as that password, too.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Depends, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBasic, HTTPBasicCredentials

from app.auth import authenticate, bearer
from app.db import DbSession
from app.errors import NotFound, Unauthorised

router = APIRouter(include_in_schema=False)
basic = HTTPBasic(auto_error=False)
VIEWER = ("swagger-ui-bundle.js", "swagger-ui.css")
OWN_HOST_ONLY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' '{script}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may load and run: beside its own files the one script in it, by its hash."""
SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


class KeyAsPassword(Unauthorised):
    """401 that makes a browser ask."""

    mend = "Send `Authorization: Bearer <key>`; in a browser give any name, and the key as the password."
    headers: ClassVar[dict[str, str]] = {"WWW-Authenticate": 'Basic realm="any name, an API key as password"'}


def reader(
    session: DbSession,
    token: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    typed: Annotated[HTTPBasicCredentials | None, Depends(basic)],
) -> None:
    """Anybody who holds a key."""
    try:
        authenticate(session, token.credentials if token else typed.password if typed else None)
    except Unauthorised as error:
        raise KeyAsPassword(error.detail) from None


@router.get("/openapi.json", dependencies=[Depends(reader)])
def openapi(request: Request) -> JSONResponse:
    """The OpenAPI document."""
    document: dict[str, Any] = request.app.openapi()
    return JSONResponse(document)


@router.get("/docs", dependencies=[Depends(reader)])
def docs(request: Request) -> HTMLResponse:
    """The same as a page. Nothing of it comes from another host: keys are typed there."""
    page = get_swagger_ui_html(
        openapi_url="/openapi.json", title=request.app.title, swagger_js_url=f"/docs/{VIEWER[0]}",
        swagger_css_url=f"/docs/{VIEWER[1]}", swagger_favicon_url="data:,",
    )  # fmt: skip
    known = base64.b64encode(hashlib.sha256(b"".join(SCRIPT.findall(bytes(page.body)))).digest()).decode()
    page.headers["Content-Security-Policy"] = OWN_HOST_ONLY.format(script=f"sha256-{known}")
    return page


@router.get("/docs/{file}", dependencies=[Depends(reader)])
def viewer(file: str) -> FileResponse:
    """The viewer's script and style."""
    if file not in VIEWER:
        raise NotFound("the viewer has no such file")
    return FileResponse(Path(str(files("fastapi_offline"))) / "static" / file)
