"""Train the ranking model on pairs of images of which one was clicked more; the recall model inside it stays frozen.

    python train_ranking.py --align-path align_model.pth

Reads the training and validation tables, their images as `download_images.py --dataset ranking` stores them, a recall
checkpoint, BERT's vocabulary, and what is known of the POIs (the three released .npy files, or one .npz of
build_poi_vectors.py).  Writes two checkpoints that local_eval_test.py loads by their path: the one with the best
validation accuracy as `{output_prefix}_{epoch}_{accuracy}.ckpt`, and after each epoch `{output_prefix}_last.ckpt`, from
which the same command with `--resume` goes on exactly.  One process is enough, torchrun is not needed: what is trained
is tiny, and without augmentation each image is encoded only once.
"""

CONFIG = {
    "dataset_csv": "data/dwd_mml_train_dataset_1007_urls_train_with_poi_tuomin.csv",  # the pairs to train on
    "image_dir": "data/ranking_images",  # their images, named as the last part of their address
    "val_csv": "data/dwd_mml_train_dataset_1007_urls_val_with_poi_tuomin.csv",  # the pairs that choose the best epoch
    "val_image_dir": None,  # their images; None: image_dir
    "align_path": "align_model.pth",  # the recall model's weights
    "init_model_path": None,  # go on training a ranking checkpoint instead; it brings its recall model
    "bert_path": "bert-base-chinese",  # a folder with BERT's vocabulary, else a name on the Hugging Face hub
    "poi_image_vectors": "temp_dataset_item_pois_relation_0110_imgs_avg10_vector.npy",  # image vector of each POI, or
    # an .npz of build_poi_vectors.py, which also stands for the next two
    "poi_name_vectors": "temp_dataset_item_pois_relation_0110_poi_name_vector.npy",  # name vector of each POI
    "poi_image_counts": "temp_dataset_item_pois_relation_1129_poi_2_pic_num.npy",  # numbers of images of each POI
    "output_prefix": "ranking",  # where the checkpoints go: ranking_020_0.6520.ckpt, ranking_last.ckpt
    "resume": False,  # go on from {output_prefix}_last.ckpt, also with more epochs
    "epochs": 32,  # of the whole run
    "batch_size": 16,  # pairs
    "learning_rate": 1e-3,  # Adam's
    "augment": True,  # turn by up to 5 degrees, mirror 3 of 10; False: encode each image once, which is much faster
    "num_workers": None,  # processes that prepare images; None: one for each core, on a CPU at most 2
    "device": "auto",  # auto, cpu or cuda
    "precision": "fp32",  # of the frozen recall model: fp32 (exact), bf16 or fp16
    "seed": 0,  # of the weights, the order, the augmentation and the dropout
}

import sys

from models.errors import InputError
from models.script import run_script


def main(argv=None) -> int:
    return run_script(__name__, argv, train, {"num_workers": int}, {"precision": ["fp32", "bf16", "fp16"]})


def train(config) -> None:
    from models.files import check_output
    from models.poi import PoiKnowledge
    from models.ranking_data import EncodedPairs, PairBatches, usable_pairs
    from models.ranking_trainer import RankingTrainer

    check_output(f"{config.output_prefix}_last.ckpt")
    val_image_dir = config.val_image_dir or config.image_dir
    pairs = usable_pairs(config.dataset_csv, config.image_dir)
    val_pairs = usable_pairs(config.val_csv, val_image_dir)
    if len(pairs) < config.batch_size:
        few = f"{len(pairs)} pairs are fewer than a batch of {config.batch_size}"
        raise InputError(f"{config.dataset_csv}: {few}; lower batch_size")

    ranker = starting_ranker(config)
    poi_files = config.poi_image_vectors, config.poi_name_vectors, config.poi_image_counts
    poi = PoiKnowledge.load(*poi_files, dim=ranker.model.config.embed_dim)
    trainer = RankingTrainer(config, ranker, poi, len(pairs))
    if config.resume:
        trainer.resume()  # before anything is encoded: the recall model is the checkpoint's
    validation = EncodedPairs.encode(ranker.towers, val_pairs, val_image_dir, config.precision)
    training = EncodedPairs.encode(ranker.towers, pairs, config.image_dir, config.precision, images=not config.augment)
    augmented = (config.image_dir, ranker.towers.preprocess) if config.augment else None
    trainer.train(training, PairBatches(pairs, config.batch_size, config.seed, augmented), validation)


def starting_ranker(config):
    """A new ranking model around the recall model of `align_path`, or the whole of `init_model_path`."""
    from dataclasses import asdict

    import torch

    from models.loading import Ranker, load_align, load_ranking
    from models.ranking import RankingConfig, RankingModel

    if config.init_model_path:
        return load_ranking(config.init_model_path, config.bert_path, config.device)
    towers = load_align(config.align_path, config.bert_path, config.device)
    torch.manual_seed(config.seed)
    model = RankingModel(RankingConfig(**asdict(towers.model.config)))
    model.align_model = towers.model.requires_grad_(False)
    return Ranker(model.to(towers.model.logit_scale.device), towers)


if __name__ == "__main__":
    sys.exit(main())
