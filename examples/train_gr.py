# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Trains a generative retriever on user sequences and a catalog of semantic IDs, and writes it as one folder.

On an invented market, in under a minute on a CPU. Killed anywhere, the same command goes on and ends as if nothing had
happened:

    python examples/train_gr.py --tiny --output_dir runs/retriever

On an S3-Rec file (`user item item ...` a line), or any file or Hub dataset with the columns `user_id` and `items`,
here on two CPU processes:

    ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 examples/train_gr.py \
        --sequences sequences.txt --catalog runs/catalog --model qwen2-small --output_dir runs/retriever

On FORGE's rows of text (`system,user,answer`), streamed from the Hub, as FORGE trains T5-base (its learning rate,
schedule and steps for AL-GR/AL-GR; 16 processes make its batch of 1,280). On AL-GR-Tiny it takes `--max_steps 200000`
(Qwen2.5: `--max_steps 12500 --learning_rate 1e-5`). A catalog of AL-GR's items says which codes there are:

    accelerate launch --num_processes 16 examples/train_gr.py --recipe forge-t5 --model google-t5/t5-base \
        --rows AL-GR/AL-GR-Tiny --data_files train_data/s1_tiny.csv --streaming --max_steps 200000 \
        --catalog runs/al_gr_catalog --output_dir runs/forge-t5

`--recipe forge-qwen2.5 --model Qwen/Qwen2.5-0.5B-Instruct` for the other. `--rows` also takes a CSV or JSONL file.

With `--push_to_hub me/retriever`, checkpoints and the final model go to the Hub, with a card of the run.

`--model` is "qwen2-small", "t5-tiger", or a T5 or causal checkpoint such as "Qwen/Qwen2.5-0.5B". `--lora_rank 16`
trains an adapter of it, which is merged into the saved model, or saved alone with `--save_adapter`.
"""

import argparse
from pathlib import Path

from transformers import set_seed

from forge_hf import (
    RetrievalTrainer,
    RetrievalTrainingArguments,
    SemanticIdCatalog,
    SyntheticMarket,
    add_lora,
    create_retriever,
    leave_one_out,
    read_sequences,
)
from forge_hf.data import read_text_rows


# Settings that the options below go over. FORGE's are those of its algr/config.
FORGE = {"per_device_train_batch_size": 80, "bf16": True}
RECIPES = {
    "sequences": {
        "num_train_epochs": 30, "per_device_train_batch_size": 128, "learning_rate": 2e-3, "weight_decay": 0.1,
        "lr_scheduler_type": "cosine", "warmup_steps": 0.05, "adam_beta2": 0.98, "hidden_dropout": 0.2,
    },
    "forge-t5": {**FORGE, "max_steps": 500_000, "learning_rate": 2e-4, "lr_scheduler_type": "constant"},
    "forge-qwen2.5": {**FORGE, "max_steps": 125_000, "learning_rate": 5e-5, "lr_scheduler_type": "linear"},
}  # fmt: skip
SETTINGS = {"gradient_accumulation_steps", "dataloader_num_workers"}.union(*RECIPES.values())


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", help="S3-Rec text file, or a file or Hub dataset with `user_id` and `items`")
    parser.add_argument(
        "--rows", help="file of rows of text, or a Hub dataset with --data_files, instead of --sequences"
    )
    parser.add_argument("--data_files", help="a file of that dataset of the Hub, such as train_data/s1_tiny.csv")
    parser.add_argument("--streaming", action="store_true", help="read rows as they are needed; needs --max_steps")
    parser.add_argument(
        "--eval_rows", help="file of rows to validate on (also hf://datasets/...); answers may be item ids"
    )
    parser.add_argument("--recipe", choices=RECIPES, default="sequences", help="defaults of the options below")
    parser.add_argument("--catalog", help="folder or Hub repository of a SemanticIdCatalog")
    parser.add_argument("--model", default="qwen2-small", help="a preset, or a checkpoint by name")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--num_user_buckets", type=int, default=0, help="hashed user tokens of a preset")
    parser.add_argument("--lora_rank", type=int, default=0, help="0 trains all weights")
    parser.add_argument("--save_adapter", action="store_true", help="save the adapter alone, which names its base")
    parser.add_argument("--num_train_epochs", type=float)
    parser.add_argument("--max_steps", type=int, help="instead of --num_train_epochs")
    parser.add_argument("--batch_size", type=int, dest="per_device_train_batch_size", help="on each process")
    parser.add_argument("--gradient_accumulation_steps", type=int)
    parser.add_argument("--learning_rate", type=float)
    parser.add_argument("--hidden_dropout", type=float, help="of decoder-only models")
    parser.add_argument("--dataloader_num_workers", type=int)
    parser.add_argument("--dropout_rate", type=float, help="of a T5, by default its config's")
    parser.add_argument("--eval_users", type=int, default=2000, help="validation users that choose the checkpoint")
    parser.add_argument("--evals", type=int, default=10, help="evaluations over the whole run")
    parser.add_argument("--num_beams", type=int, default=50)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--push_to_hub", metavar="REPO_ID", help="repository to push to")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--tiny", action="store_true", help="a small model on an invented market")
    args = parser.parse_args()
    if not args.tiny and not (args.catalog and bool(args.sequences) != bool(args.rows)):
        parser.error("give --catalog and one of --sequences and --rows, or --tiny")
    if args.save_adapter and args.push_to_hub and Path(args.model).exists():
        parser.error(f"--save_adapter names its base, and nobody else has {args.model}: push that, or leave it out")
    if args.tiny:
        args.num_train_epochs, args.per_device_train_batch_size, args.evals, args.eval_users = 2, 64, 2, 100
    return args


def dataset_name(data: str) -> str:
    """What the card calls the data: a dataset of the Hub by its id, a file without its folder."""
    return Path(data).stem if Path(data).exists() else data


def main():
    args = parse_args()
    set_seed(args.seed)

    # 1. User sequences, or rows of text, and the catalog that names their items.
    if args.tiny:
        market = SyntheticMarket(num_items=200, num_users=500)
        codes = [[row // 20, row % 20] for row in range(market.num_items)]
        catalog = SemanticIdCatalog.from_codes(market.item_ids, codes, codebook_sizes=[10, 20], on_collision="keep")
        splits = leave_one_out(market.sequences)
    else:
        catalog = SemanticIdCatalog.from_pretrained(args.catalog)
        if args.rows:
            rows = f"hf://datasets/{args.rows}/{args.data_files}" if args.data_files else args.rows
            splits = {"train": read_text_rows(rows, streaming=args.streaming)}
            splits["validation"] = read_text_rows(args.eval_rows) if args.eval_rows else None
        else:
            splits = leave_one_out(read_sequences(args.sequences))
    validation = splits["validation"]
    if validation is not None:
        validation = validation.shuffle(seed=0).select(range(min(args.eval_users, len(validation))))

    # 2. The model and its tokenizer.
    overrides = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1} if args.tiny else {}
    if args.tiny and args.model == "t5-tiger":
        overrides = {"d_model": 32, "d_ff": 64, "num_layers": 1, "num_decoder_layers": 1}
    if args.dropout_rate is not None:
        overrides["dropout_rate"] = args.dropout_rate
    model, tokenizer = create_retriever(args.model, catalog, num_user_buckets=args.num_user_buckets, **overrides)
    if args.lora_rank:
        model = add_lora(model, tokenizer, catalog, rank=args.lora_rank)

    # 3. The recipe, and what options say otherwise.
    given = {name: value for name, value in vars(args).items() if name in SETTINGS and value is not None}
    settings = RECIPES[args.recipe] | given
    if model.config.is_encoder_decoder:
        settings.pop("hidden_dropout", None)

    # 4. Train; with validation data the checkpoint with the best NDCG@10 is kept.
    training_args = RetrievalTrainingArguments(
        output_dir=args.output_dir,
        per_device_eval_batch_size=64,
        eval_num_beams=args.num_beams,
        eval_strategy="no" if validation is None else "steps",
        load_best_model_at_end=validation is not None,
        eval_steps=1 / args.evals,  # of all steps
        save_strategy="steps",
        save_steps=1 / args.evals,
        logging_steps=1 / args.evals,
        seed=args.seed,
        dataset_name="an invented market" if args.tiny else dataset_name(args.rows or args.sequences),
        push_to_hub=args.push_to_hub is not None,
        hub_model_id=args.push_to_hub,
        # Checkpoints of an adapter that is to be merged are another kind of thing.
        hub_strategy="end" if args.lora_rank and not args.save_adapter else "every_save",
        hub_private_repo=args.private or None,
        report_to="none",
        **settings,
    )
    trainer = RetrievalTrainer(
        model,
        training_args,
        catalog=catalog,
        processing_class=tokenizer,
        train_dataset=splits["train"],
        eval_dataset=validation,
    )
    trainer.train(resume_from_checkpoint=trainer.find_checkpoint())

    # 5. Score the chosen checkpoint on all validation users, and save it (and push it, with `--push_to_hub`). The test
    # items stay unread: evaluate_gr.py.
    metrics = {} if validation is None else trainer.evaluate(splits["validation"], metric_key_prefix="validation")
    if args.lora_rank and not args.save_adapter:
        trainer.model = trainer.model.merge_and_unload()
    trainer.save_model(args.output_dir)
    trainer.accelerator.end_training()
    if trainer.is_world_process_zero():
        print(f"Validation NDCG@10: {metrics.get('validation_ndcg@10', 'unknown')}; saved to {args.output_dir}")


if __name__ == "__main__":
    main()
