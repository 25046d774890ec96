# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""
Trains a generative retriever on user sequences and a catalog of semantic IDs, and writes it as one folder.

On an invented market, in under a minute on a CPU; `--resume` goes on from the last checkpoint of `--output_dir`:

    python examples/train_gr.py --tiny --output_dir runs/retriever

On an S3-Rec file (`user item item ...` a line), or any file or Hub dataset with the columns `user_id` and `items`,
here on two CPU processes:

    ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 examples/train_gr.py \
        --sequences sequences.txt --catalog runs/catalog --model qwen2-small --output_dir runs/retriever

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


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", help="S3-Rec text file, or a file or Hub dataset with `user_id` and `items`")
    parser.add_argument("--catalog", help="folder or Hub repository of a SemanticIdCatalog")
    parser.add_argument("--model", default="qwen2-small", help="a preset, or a checkpoint by name")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--num_user_buckets", type=int, default=0, help="hashed user tokens of a preset")
    parser.add_argument("--lora_rank", type=int, default=0, help="0 trains all weights")
    parser.add_argument("--save_adapter", action="store_true", help="save the adapter alone, which names its base")
    parser.add_argument("--num_train_epochs", type=float, default=30)
    parser.add_argument("--batch_size", type=int, default=128, help="windows of a step, on each process")
    parser.add_argument("--gradient_accumulation_steps", type=int, default=1)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--hidden_dropout", type=float, default=0.2, help="of decoder-only models")
    parser.add_argument("--dropout_rate", type=float, help="of a T5, by default its config's")
    parser.add_argument("--eval_users", type=int, default=2000, help="validation users that choose the checkpoint")
    parser.add_argument("--evals", type=int, default=10, help="evaluations over the whole run")
    parser.add_argument("--num_beams", type=int, default=50)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--push_to_hub", metavar="REPO_ID", help="repository to push to")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--tiny", action="store_true", help="a small model on an invented market")
    args = parser.parse_args()
    if not args.tiny and not (args.sequences and args.catalog):
        parser.error("give --sequences and --catalog, or --tiny")
    if args.save_adapter and args.push_to_hub and Path(args.model).exists():
        parser.error(f"--save_adapter names its base, and nobody else has {args.model}: push that, or leave it out")
    if args.tiny:
        args.num_train_epochs, args.batch_size, args.evals, args.eval_users = 2, 64, 2, 100
    return args


def dataset_name(sequences: str) -> str:
    """What the card calls the data: a dataset of the Hub by its id, a file without its folder."""
    return Path(sequences).stem if Path(sequences).exists() else sequences


def main():
    args = parse_args()
    set_seed(args.seed)

    # 1. User sequences and the catalog that names their items.
    if args.tiny:
        market = SyntheticMarket(num_items=200, num_users=500)
        codes = [[row // 20, row % 20] for row in range(market.num_items)]
        catalog = SemanticIdCatalog.from_codes(market.item_ids, codes, codebook_sizes=[10, 20], on_collision="keep")
        sequences = market.sequences
    else:
        sequences, catalog = read_sequences(args.sequences), SemanticIdCatalog.from_pretrained(args.catalog)
    splits = leave_one_out(sequences)
    validation = splits["validation"].shuffle(seed=0).select(range(min(args.eval_users, len(splits["validation"]))))

    # 2. The model and its tokenizer.
    overrides = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1} if args.tiny else {}
    if args.tiny and args.model == "t5-tiger":
        overrides = {"d_model": 32, "d_ff": 64, "num_layers": 1, "num_decoder_layers": 1}
    if args.dropout_rate is not None:
        overrides["dropout_rate"] = args.dropout_rate
    model, tokenizer = create_retriever(args.model, catalog, num_user_buckets=args.num_user_buckets, **overrides)
    if args.lora_rank:
        model = add_lora(model, tokenizer, catalog, rank=args.lora_rank)

    # 3. Train; the checkpoint with the best validation NDCG@10 is kept.
    training_args = RetrievalTrainingArguments(
        output_dir=args.output_dir,
        num_train_epochs=args.num_train_epochs,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=64,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        learning_rate=args.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        weight_decay=0.1,
        adam_beta2=0.98,
        hidden_dropout=0.0 if model.config.is_encoder_decoder else args.hidden_dropout,
        eval_num_beams=args.num_beams,
        eval_strategy="steps",
        eval_steps=1 / args.evals,  # of all steps
        save_strategy="steps",
        save_steps=1 / args.evals,
        logging_steps=1 / args.evals,
        bf16=args.bf16,
        seed=args.seed,
        dataset_name="an invented market" if args.tiny else dataset_name(args.sequences),
        push_to_hub=args.push_to_hub is not None,
        hub_model_id=args.push_to_hub,
        # Checkpoints of an adapter that is to be merged are another kind of thing.
        hub_strategy="end" if args.lora_rank and not args.save_adapter else "every_save",
        hub_private_repo=args.private or None,
        report_to="none",
    )
    trainer = RetrievalTrainer(
        model,
        training_args,
        catalog=catalog,
        processing_class=tokenizer,
        train_dataset=splits["train"],
        eval_dataset=validation,
    )
    trainer.train(resume_from_checkpoint=args.resume)

    # 4. Score the chosen checkpoint on all validation users, and save it (and push it, with `--push_to_hub`). The test
    # items stay unread: evaluate_gr.py.
    metrics = trainer.evaluate(splits["validation"], metric_key_prefix="validation")
    if args.lora_rank and not args.save_adapter:
        trainer.model = trainer.model.merge_and_unload()
    trainer.save_model(args.output_dir)
    if trainer.is_world_process_zero():
        print(f"Validation NDCG@10 {metrics['validation_ndcg@10']:.4f}; saved to {args.output_dir}")


if __name__ == "__main__":
    main()
