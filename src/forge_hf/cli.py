# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""The `forge-hf` command. Heavy imports wait until a command runs, so that `--help` is instant."""

from pathlib import Path
from typing import Annotated

import typer


app = typer.Typer(help="Generative retrieval with semantic IDs.", no_args_is_help=True, add_completion=False)


@app.callback()
def main() -> None:
    """Generative retrieval with semantic IDs."""


@app.command()
def demo(
    output_dir: Annotated[Path, typer.Option(help="Folder for the retriever, pictures and results.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option(help="Seed of the market and of the training.")] = 0,
) -> None:
    """Run the whole road on a generated market, from embeddings to recommended titles."""
    from .demo import run_demo

    run_demo(output_dir, seed=seed)


@app.command()
def recommend(
    model: Annotated[str, typer.Argument(help="Folder or Hub repository of a retriever with its catalog.")],
    history: Annotated[list[str], typer.Argument(help="Item ids of one user, oldest first.")],
    top_k: Annotated[int, typer.Option(help="Number of items to recommend.")] = 10,
    keep_history: Annotated[bool, typer.Option(help="Recommend items of the history too.")] = False,
) -> None:
    """Recommend the next items of one user."""
    from transformers import pipeline

    from . import generation  # noqa: F401 (registers the pipeline)
    from .errors import ForgeError

    try:
        found = pipeline("generative-retrieval", model=model)(history, top_k=top_k, exclude_history=not keep_history)
    except ForgeError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(code=2) from error
    for row in found:
        typer.echo(f"{row['item_id']}\t{row['semantic_id']}\t{row['score']:.4f}")
