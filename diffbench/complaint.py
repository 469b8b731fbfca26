"""Complaint: which keys a schema has at a place where a document holds another one."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def unknown_key(error: ValidationError, schema: type[BaseModel]) -> str:
    """What to write instead of the key that an error is first about; "" if it is about no unknown key."""
    problem = error.errors(include_url=False, include_context=False)[0]
    if problem["type"] != "extra_forbidden":
        return ""
    *path, key = problem["loc"]
    known = _keys(schema, path)
    if not known:
        return ""
    near = difflib.get_close_matches(str(key), known, n=2)
    advice = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"; allowed here: {', '.join(known)}{advice}"


def _keys(schema: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """The keys that a schema allows at a path; a tag of a union names the kind that the document has chosen."""
    at = [schema]
    for part in path:
        tagged = [one for one in at if "kind" in one.model_fields and one.model_fields["kind"].default == part]
        if tagged:
            at = tagged
        elif isinstance(part, str):
            at = [
                found for one in at if part in one.model_fields for found in _models(one.model_fields[part].annotation)
            ]
    return list(dict.fromkeys(name for one in at for name in one.model_fields))


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
