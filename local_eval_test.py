"""Stage 2, ranking: score both images of every pair and say how often the one that was clicked more scores higher.

    python local_eval_test.py --model-path shoucai_siamese_train_concat_poi_020_0.6520.ckpt

Reads the ranking weights (which hold the recall model too), BERT's vocabulary, the table of pairs, their images as
`download_images.py --dataset ranking` stores them, and what is known of the POIs: the three released .npy files, or the
one .npz of build_poi_vectors.py.  Writes one row `item_id,image_a,image_b,score_a,score_b,label` for each pair.
"""

CONFIG = {
    "dataset_csv": "data/dwd_mml_train_dataset_1007_urls_val_with_poi_tuomin.csv",  # the pairs
    "image_dir": "data/ranking_images",  # images named as the last part of their address
    "model_path": "shoucai_siamese_train_concat_poi_020_0.6520.ckpt",  # the ranking model's weights
    "bert_path": "bert-base-chinese",  # a folder with BERT's vocabulary, else a name on the Hugging Face hub
    "poi_image_vectors": "temp_dataset_item_pois_relation_0110_imgs_avg10_vector.npy",  # image vector of each POI, or
    # an .npz of build_poi_vectors.py, which also stands for the next two
    "poi_name_vectors": "temp_dataset_item_pois_relation_0110_poi_name_vector.npy",  # name vector of each POI
    "poi_image_counts": "temp_dataset_item_pois_relation_1129_poi_2_pic_num.npy",  # numbers of images of each POI
    "output_csv": "data/local_eval_scores.csv",  # the scores
    "batch_size": None,  # images at a time in each worker; None: 2 on a CPU, 64 on a GPU
    "num_workers": None,  # threads that decode and encode; None: one for each core
    "device": "auto",  # auto, cpu or cuda
    "precision": "fp32",  # fp32 (exact), bf16 or fp16
}

from pathlib import Path

from models.errors import InputError
from models.script import leave, run_script


def main(argv=None) -> int:
    types = {"batch_size": int, "num_workers": int}
    return run_script(__name__, argv, evaluate_pairs, types, {"precision": ["fp32", "bf16", "fp16"]})


def evaluate_pairs(config) -> None:
    from models.encode import encode_images, encode_texts
    from models.files import check_output
    from models.left_out import LeftOut
    from models.loading import load_ranking
    from models.pair_scores import score_pairs, write_pair_scores
    from models.poi import PoiKnowledge, item_text
    from models.tables import read_pairs

    check_output(config.output_csv)
    left_out = LeftOut(config.output_csv)
    rows, refused = read_pairs(config.dataset_csv)
    there = files_of(config.image_dir)
    model, towers = load_ranking(config.model_path, config.bert_path, config.device)
    poi_files = config.poi_image_vectors, config.poi_name_vectors, config.poi_image_counts
    poi = PoiKnowledge.load(*poi_files, dim=model.config.embed_dim)

    left_out.list(f"rows of {config.dataset_csv} left out", refused)
    pairs = with_images(rows, there, "is not in the image folder", left_out)
    if not pairs:
        raise InputError(f"{config.image_dir}: has both images of none of the pairs; run download_images.py for them")
    names = dict.fromkeys(name for pair in pairs for name in (pair.image_a, pair.image_b))
    paths = [Path(config.image_dir) / name for name in names]
    images = encode_images(towers, paths, config.batch_size, config.num_workers, config.precision)
    left_out.list("images that cannot be read", [f"{path}: {reason}" for path, reason in images.failed])
    image_vectors = {path.name: vector for path, vector in zip(images.paths, images.vectors, strict=True)}
    pairs = with_images(pairs, image_vectors.keys(), "cannot be read", left_out)
    if not pairs:
        raise InputError(f"{config.image_dir}: both images of none of the pairs can be read; download them again")
    texts = (item_text(pair.title, pair.poi_names) for pair in pairs)
    text_vectors = encode_texts(towers, texts, precision=config.precision)

    scores_a, scores_b = score_pairs(model, poi, pairs, image_vectors, text_vectors)
    write_pair_scores(config.output_csv, pairs, scores_a, scores_b)
    left_out.write()
    print(f"wrote {config.output_csv}")
    report_coverage(pairs, rows, len(refused), poi)
    report_metrics(pairs, scores_a, scores_b)


def files_of(folder: str) -> set[str]:
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such image folder; run download_images.py --dataset ranking, or set image_dir")
    return {path.name for path in Path(folder).iterdir()}


def with_images(pairs, names, problem: str, left_out):
    """The pairs that have both images among `names`; the others are listed under the `problem` of their images."""
    kept, lines = [], []
    for pair in pairs:
        lacking = [name for name in (pair.image_a, pair.image_b) if name not in names]
        if lacking:
            lines.append(f"item {pair.item_id}: {', '.join(lacking)}")
        else:
            kept.append(pair)
    left_out.list(f"pairs left out because an image {problem}", lines)
    return kept


def report_coverage(pairs, rows, refused: int, poi) -> None:
    """How much of the table was scored, and how many POIs the model knows nothing of."""
    used, listed = (len({name for pair in each for name in (pair.image_a, pair.image_b)}) for each in (pairs, rows))
    print(f"coverage: {len(pairs):,} of {len(rows) + refused:,} pairs, {used:,} of {listed:,} images")
    names = {name for pair in pairs for name in poi.best(pair.poi_names)}
    without = sum(not poi.best(pair.poi_names) for pair in pairs)
    print(f"POIs: {len(names):,} names, {len(poi.without_vector(names)):,} of them without a vector; ", end="")
    print(f"{without:,} items without POI names")


def report_metrics(pairs, scores_a, scores_b) -> None:
    """The metrics of each large category, then of all pairs."""
    from models.ranking_metrics import by_category, pair_metrics

    labels = [pair.label for pair in pairs]
    for category, part in by_category(scores_a, scores_b, labels, [pair.cate_name for pair in pairs]).items():
        low, high = part.interval
        print(f"  {part.auc:.3f} ({low:.3f} to {high:.3f}) in {part.pairs:4} pairs of {category}")
    total = pair_metrics(scores_a, scores_b, labels)
    if total.ties:
        print(f'pairs with equal scores, which count as the answer "b": {total.ties}')
    print(f"ROC AUC of score_a - score_b: {total.roc_auc:.3f}")
    print(f'always answering "b": {total.always_b:.3f}')
    print(f"95 % interval of the AUC: {total.interval[0]:.3f} to {total.interval[1]:.3f} ({total.pairs:,} pairs)")
    print(f"AUC = {total.auc:.3f}")


if __name__ == "__main__":
    leave(main())
