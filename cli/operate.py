"""`up` and `run`: start Leadline in this terminal, and end it in an orderly way."""
import typer
def up(ctx: typer.Context) -> None:
    """."""
def run(ctx: typer.Context) -> None:
    """."""
