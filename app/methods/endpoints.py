"""Methods and objectives over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from app.auth import Principal, require
from app.errors import Unauthorised, Unavailable, problem_responses
from app.methods import service
from app.methods.schemas import MethodList

router = APIRouter(prefix="/v1/methods", tags=["methods"])


@router.get("", responses=problem_responses(Unauthorised, Unavailable))
def list_methods(_: Annotated[Principal, Depends(require())]) -> MethodList:
    """Methods and objectives that a policy may name, with what they fix, preset and take as options."""
    return service.everything()
