"""A served model by the name in a body: a wrong name is the body's fault, so it is a 422 that lists the right ones."""

from __future__ import annotations

from sqlalchemy.orm import Session

from app.requests import repository
from app.requests.errors import UnknownServedModel
from app.tables import ServedModel

NAMES_SHOWN = 50


def known_model(session: Session, name: str) -> ServedModel:
    """The served model. Raises UnknownServedModel with the known names and the closest of them."""
    model = repository.model_named(session, name)
    if model is None:
        raise unknown_model(session, name)
    return model


def unknown_model(session: Session, name: str) -> UnknownServedModel:
    """What to say about a name that no served model has."""
    return UnknownServedModel(name, repository.model_names(session, NAMES_SHOWN))
