"""Train the recall model on text-image pairs, and on a knowledge graph's triples if there are any.

    python train_align.py --pairs-csv pairs.csv --image-dir images
    torchrun --nproc_per_node=8 train_align.py --pairs-csv pairs.csv --image-dir images

Reads pairs `text,image` and triples `head,relation,tail` (CSV; images are paths in `image_dir`), BERT's vocabulary, and
for the held-out recall@K a table and image folder of stage 1.  Writes two checkpoints in the released format: `last`
every `save_every` steps, from which `--resume` goes on exactly, and `best`, the one with the highest recall@K.
"""

CONFIG = {
    "pairs_csv": "data/align_pairs.csv",  # text,image
    "triples_csv": None,  # head,relation,tail with has_cate, has_image or has_title; None: no knowledge graph
    "image_dir": "data/align_images",  # where the images of pairs and triples are
    "val_csv": None,  # held-out POIs, a table as stage 1's; None: no recall@K, and no `best`
    "val_image_dir": None,  # their images, named {poi_id}_{rank_number}.jpg or .png
    "recall_k": 5,  # K of the held-out recall@K
    "last_path": "align_last.pth",  # the newest weights, with all that resuming needs
    "best_path": "align_best.pth",  # the weights with the best held-out recall@K
    "resume": False,  # go on from last_path
    "init_model_path": None,  # start from a recall checkpoint, the released one or your own; it brings its sizes
    "bert_path": "bert-base-chinese",  # a folder with vocab.txt and config.json (sizes), else a name on the hub
    "init_bert_dir": None,  # start the text tower from a BERT folder of the hub's layout
    "init_image_path": None,  # start the image tower from an ImageNet EfficientNet (either library's names)
    "text_layers": 4,  # the text tower's layers
    "image_size": 224,  # pixels, each side
    "image_width": 1.2,  # EfficientNet's width multiplier; 1.2 and depth 1.4 are B3
    "image_depth": 1.4,  # its depth multiplier
    "embed_dim": 512,  # length of the vectors
    "steps": 200_000,  # of the whole run
    "batch_size": 64,  # pairs of one process; the contrast runs over those of all processes
    "triple_batch": 16,  # triples of one process
    "triple_weight": 1.0,  # of the knowledge graph's loss
    "learning_rate": 1e-4,  # the highest, after warm-up
    "logit_scale_rate": 1e-2,  # that of the logit scale, which starts at 1 and has to reach tens
    "warmup_steps": 2_000,  # of linear warm-up; half a cosine down to 0 follows
    "weight_decay": 0.05,  # AdamW's, of matrices only
    "augment": True,  # random crops and mirroring
    "dropout": True,  # dropout and stochastic depth, as both architectures have them; a short run is better without
    "check_images": True,  # decode every image once before training; False: the first unreadable one ends it
    "log_every": 50,  # steps
    "save_every": 1_000,  # steps
    "eval_every": 5_000,  # steps, and at the end
    "num_workers": None,  # processes that prepare batches; None: one for each core, on a CPU at most 2
    "device": "auto",  # auto, cpu or cuda
    "precision": None,  # fp32, bf16 or fp16; None: bf16 on a GPU, else fp32
    "seed": 0,  # of the weights, the order, the augmentation and the dropout
}

import sys

from models.distributed import only_first_prints, process_group
from models.errors import InputError
from models.script import listing, run_script


def main(argv=None) -> int:
    with only_first_prints():
        return run_script(
            __name__,
            argv,
            train_in_group,
            types={"num_workers": int},
            choices={"precision": ["fp32", "bf16", "fp16"]},
        )


def train_in_group(config) -> None:
    with process_group(config.device) as process:
        train(config, process)


def train(config, process) -> None:
    from models.align_trainer import AlignTrainer
    from models.align_training import HeldOut
    from models.files import check_output
    from models.pairs_data import AlignBatches

    if bool(config.val_csv) != bool(config.val_image_dir):
        raise InputError("set both val_csv and val_image_dir to measure recall@K, or neither")
    check_output(config.last_path), check_output(config.best_path)
    held_out = HeldOut.load(config.val_csv, config.val_image_dir) if config.val_csv else None
    if held_out is None:
        print("no val_csv: recall@K is not measured, and no `best` is kept")
    pairs, triples = training_data(config, process)
    config.precision = config.precision or ("bf16" if process.device.type == "cuda" else "fp32")
    towers = starting_towers(config)
    batches = AlignBatches(
        pairs,
        triples,
        config.image_dir,
        towers,
        config.augment,
        config.batch_size,
        config.triple_batch,
        config.seed,
        process.rank,
        process.count,
    )
    trainer = AlignTrainer(config, process, towers, batches, held_out)
    if config.resume:
        trainer.resume()
    trainer.train()


def training_data(config, process):
    """Pairs and triples whose images can be read; the others are listed."""
    from models.pairs_data import check_contrast, read_text_images, read_triples, unreadable_images

    pairs = read_text_images(config.pairs_csv)
    triples = read_triples(config.triples_csv) if config.triples_csv else []
    if config.check_images:
        names = [pair.image for pair in pairs] + [triple.image for triple in triples if triple.image]
        bad = unreadable_images(config.image_dir, names)
        listing("images that are missing or cannot be read", [f"{name}: {reason}" for name, reason in bad.items()])
        left_out = sum(pair.image in bad for pair in pairs), sum(triple.image in bad for triple in triples)
        pairs = [pair for pair in pairs if pair.image not in bad]
        triples = [triple for triple in triples if triple.image not in bad]
        print(f"left out with their images: {left_out[0]} pairs, {left_out[1]} triples")
    if not pairs:
        raise InputError(f"{config.pairs_csv}: none of its images can be read in {config.image_dir}")
    batch = config.batch_size * process.count
    if len(pairs) < batch:
        raise InputError(f"{config.pairs_csv}: {len(pairs)} pairs are fewer than a batch of {batch}; lower batch_size")
    if triples:
        check_contrast(triples, config.triples_csv)
    distinct = len({pair.text for pair in pairs})
    print(f"training on {len(pairs)} pairs with {distinct} texts, and {len(triples)} triples")
    if distinct < batch:
        print(f"a batch of {batch} holds some texts twice and takes them for mismatches; a lower batch_size helps")
    return pairs, triples


def starting_towers(config):
    """The model to train, with its preprocessing."""
    import torch

    from models.align import AlignConfig
    from models.loading import TwoTower, load_tokenize
    from models.preprocess import Preprocess
    from models.starting_weights import bert_sizes, starting_model
    from models.text import Tokenize

    torch.manual_seed(config.seed)
    keys = ("text_layers", "image_size", "image_width", "image_depth", "embed_dim")
    sizes = {"vocab_size": Tokenize(config.bert_path).size} | bert_sizes(config.bert_path)
    try:
        sizes = AlignConfig(**sizes | {key: getattr(config, key) for key in keys})
    except ValueError as error:
        raise InputError(f"{config.bert_path}: with this BERT the model would have {error}") from error
    model = starting_model(sizes, config.init_model_path, config.init_bert_dir, config.init_image_path)
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"model: {count:.1f} million parameters")
    return TwoTower(model, Preprocess(model.config.image_size), load_tokenize(config.bert_path, model.config))


if __name__ == "__main__":
    sys.exit(main())
