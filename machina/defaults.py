"""Other defaults for inherited options."""

from __future__ import annotations

from typing import Any

from pydantic.fields import FieldInfo

from machina.config import Config


def with_default(model: type[Config], name: str, default: Any) -> Any:
    """The field ``name`` of ``model`` with another default; range and description stay.

    Used in a subclass: ``gamma: float = with_default(Base, "gamma", 0.997)``.
    """
    return FieldInfo.merge_field_infos(model.model_fields[name], default=default)
