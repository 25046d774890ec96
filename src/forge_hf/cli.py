# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""The `forge-hf` command. What only one command needs is imported when it runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer


app = typer.Typer(
    help="Generative retrieval with semantic IDs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # a token is one
)


@app.callback()
def main() -> None:
    """Generative retrieval with semantic IDs."""


@app.command()
def demo(
    output_dir: Annotated[Path, typer.Option(help="Folder for the retriever, pictures and results.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the market and of the training.")] = 0,
) -> None:
    """Run the whole road on a generated market, from embeddings to recommended titles."""
    from .demo import run_demo
    from .hub import lock_folder

    with _one_line_errors(), lock_folder(output_dir):
        run_demo(output_dir, seed=seed)


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="What was saved: item tokenizer, catalog, retriever or adapter.")],
    repo_id: Annotated[str, typer.Argument(help="Repository, made if there is none.")],
    repo_type: Annotated[str, typer.Option(help="model, or dataset for a folder of data files.")] = "model",
    private: Annotated[bool | None, typer.Option(help="Make a new repository private.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch to commit to.")] = None,
    token: Annotated[str | None, typer.Option(help="Token, by default the one of `hf auth login`.")] = None,
    license: Annotated[str | None, typer.Option(help="License, for the card.")] = None,
    message: Annotated[str | None, typer.Option(help="Message of the commit.")] = None,
    overwrite_card: Annotated[bool, typer.Option(help="Replace a card that somebody wrote.")] = False,
) -> None:
    """Upload a saved folder to the Hub in one commit, with a card."""
    from .hub import push_folder

    with _one_line_errors():
        commit = push_folder(
            folder,
            repo_id,
            repo_type=repo_type,
            private=private,
            token=token,
            revision=revision,
            commit_message=message,
            card_metadata={"license": license} if license else None,
            overwrite_card=overwrite_card,
        )
    typer.echo(commit.commit_url)


@app.command()
def recommend(
    model: Annotated[str, typer.Argument(help="Folder or Hub repository of a retriever with its catalog.")],
    history: Annotated[list[str], typer.Argument(help="Item ids of one user, oldest first.")],
    top_k: Annotated[int, typer.Option(help="Number of items to recommend.")] = 10,
    keep_history: Annotated[bool, typer.Option(help="Recommend items of the history too.")] = False,
) -> None:
    """Recommend the next items of one user."""
    from transformers import pipeline

    from .generation import load_retriever

    with _one_line_errors():
        retriever = load_retriever(model)
        found = pipeline("generative-retrieval", **retriever._asdict())(
            history, top_k=top_k, exclude_history=not keep_history
        )
    for row in found:
        typer.echo(f"{row['item_id']}\t{row['semantic_id']}\t{row['score']:.4f}")


@app.command()
def report(
    catalog: Annotated[str, typer.Argument(help="Folder or Hub repository of a catalog.")],
    embeddings: Annotated[
        Path | None,
        typer.Option(help="Item embeddings, AL-GR's .csv and FORGE's .npz too; without ids, in catalog order."),
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="Items that occur together: .npy, .csv, .parquet, FORGE's .npz.")
    ] = None,
    sequences: Annotated[
        Path | None, typer.Option(help="Or sequences, or AL-GR's origin_behavior: items that follow each other.")
    ] = None,
    categories: Annotated[Path | None, typer.Option(help=".parquet or .csv with item_id, or a JSON object.")] = None,
    category_column: Annotated[str, typer.Option(help="Column of the categories.")] = "category",
    output_dir: Annotated[Path, typer.Option(help="Folder for quality.json and pictures.")] = Path("runs/report"),
    num_queries: Annotated[int, typer.Option(help="Look for the neighbours of so many items, at most.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of which items these are.")] = 0,
    save: Annotated[bool, typer.Option(help="Write the metrics into the catalog's folder, for its card.")] = False,
) -> None:
    """Measure semantic IDs without training a retriever: a table, quality.json and pictures."""
    from .report import format_quality, run_report
    from .semantic_ids import SemanticIdCatalog

    with _one_line_errors():
        if save and not Path(catalog).is_dir():
            raise ValueError(f"`--save` writes into a folder, and {catalog!r} is none: save the catalog to one first.")
        loaded = SemanticIdCatalog.from_pretrained(catalog)
        quality = run_report(
            loaded, embeddings, pairs, sequences, categories, category_column, output_dir,
            num_queries=num_queries, seed=seed,
        )  # fmt: skip
        if save:
            loaded.quality = quality.to_dict()
            loaded.save_pretrained(catalog)
    typer.echo(format_quality(quality, loaded))
    typer.echo(f"\nquality.json and pictures are in {output_dir}")


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Errors of this package, of bad arguments and of files become one line, without a traceback."""
    try:
        yield
    except (OSError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(code=2) from error
