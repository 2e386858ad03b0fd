"""How help is shown: as Typer shows it, without types where a name says it all."""

from __future__ import annotations

from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption


class Command(TyperCommand):
    """A command: flags and arguments carry no Python type, required arguments no braces."""

    def get_params(self, ctx: Any) -> Any:
        return _without_types(super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return _plain(super().collect_usage_pieces(ctx))


class Group(TyperGroup):
    """A group of commands, likewise."""

    def get_params(self, ctx: Any) -> Any:
        return _without_types(super().get_params(ctx))


def _without_types(params: Any) -> Any:
    for param in params:
        if isinstance(param, TyperOption) and param.is_flag:
            param.metavar = ""
        elif isinstance(param, TyperArgument):
            # Typer has no switch for it: the type stands beside the name, as in 'PICTURE <list[Path]>'.
            vars(param)["display_type_rich"] = _no_type
    return params


def _no_type(ctx: Any) -> None:
    del ctx


def _plain(pieces: list[str]) -> list[str]:
    return [piece.replace("{", "").replace("}", "") for piece in pieces]
