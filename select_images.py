"""Choose images for items: recall keeps the images that fit an item's content, ranking orders them by click score.

    python select_images.py --title 普陀山一日游 --poi-names 普陀山,法雨寺 --image-dir my_images --html selected.html
    python select_images.py --items-csv items.csv --image-dir my_images

Reads the ranking weights (which hold the recall model too), BERT's vocabulary, a folder of images, and if they are
there what is known of the POIs: the three released .npy files, or the one .npz of build_poi_vectors.py.  Writes a CSV:
for each item the chosen images, best first, and the best of those that fell out, with both scores, both ranks and why.
"""

CONFIG = {
    "title": "",  # one item: its title
    "poi_names": "",  # one item: its POIs, separated by commas; they stand for the item's content if there are any
    "items_csv": None,  # many items: a CSV with the header item_id,title,poi_names, and images if they have their own
    "image_dir": "temp_recall_biztype0_fc5_imagern_500",  # the images to choose from
    "recall_k": 5,  # recall keeps this many images of each item, those that fit its content best
    "score_threshold": None,  # and of these only those whose cosine with the item's text is at least this; None: all
    "rejected_k": 10,  # list this many of each item's other images, best first, with the reason; all are counted
    "model_path": "shoucai_siamese_train_concat_poi_020_0.6520.ckpt",  # the ranking model's weights
    "align_path": None,  # another recall model for the first stage (align_model.pth); None: the one inside model_path
    "bert_path": "bert-base-chinese",  # a folder with BERT's vocabulary, else a name on the Hugging Face hub
    "poi_image_vectors": "temp_dataset_item_pois_relation_0110_imgs_avg10_vector.npy",  # image vector of each POI, or
    # an .npz of build_poi_vectors.py, which also stands for the next two; ranking does without if there are none
    "poi_name_vectors": "temp_dataset_item_pois_relation_0110_poi_name_vector.npy",  # name vector of each POI
    "poi_image_counts": "temp_dataset_item_pois_relation_1129_poi_2_pic_num.npy",  # numbers of images of each POI
    "output_csv": "data/selected_images.csv",  # the result
    "html": None,  # also a page to look at, with its thumbnails in a folder beside it
    "batch_size": None,  # images at a time in each worker; None: 2 on a CPU, 64 on a GPU
    "num_workers": None,  # threads that decode and encode; None: one for each core
    "device": "auto",  # auto, cpu or cuda
    "precision": "fp32",  # fp32 (exact), bf16 or fp16
}

import sys
from pathlib import Path

from models.errors import InputError
from models.script import from_here, from_root, listing, run_script


def main(argv=None) -> int:
    types = {"batch_size": int, "num_workers": int, "score_threshold": float}
    return run_script(__name__, argv, select_images, types, {"precision": ["fp32", "bf16", "fp16"]})


def select_images(config) -> None:
    import torch

    from models.copies import encode_distinct
    from models.encode import encode_images, encode_texts
    from models.files import check_output
    from models.images import list_images
    from models.loading import load_align, load_ranking
    from models.selection import rank_items, recall_items
    from models.selection_results import write_selection_page, write_selections

    for output in filter(None, (config.output_csv, config.html)):
        check_output(output)
    items = wanted_items(config)
    paths = list_images(config.image_dir)
    ranker = load_ranking(config.model_path, config.bert_path, config.device)
    poi = poi_knowledge(config, items, ranker.model.config.embed_dim)
    towers = load_align(config.align_path, config.bert_path, config.device) if config.align_path else ranker.towers

    encoding = config.batch_size, config.num_workers, config.precision
    images = encode_distinct(towers, paths, *encoding)
    listing("images left out because they cannot be read", [f"{path}: {reason}" for path, reason in images.failed])
    if not images.paths:
        raise InputError(f"{config.image_dir}: none of its {len(paths)} images can be read")
    own = own_candidates(items, images.paths)
    texts = encode_texts(towers, [item.text for item in items], precision=config.precision)

    queries = torch.stack([texts[item.text] for item in items])  # (I, D)
    limits = config.recall_k, config.rejected_k, config.score_threshold
    recalled = recall_items(queries, images.vectors, own, *limits)
    image_vectors = images.vectors
    if config.align_path:  # then the ranking model needs vectors of its own, if only of what recall kept
        kept = sorted({index for each in recalled for index in each.indices[: each.kept]})
        encoded = encode_images(ranker.towers, [images.paths[index] for index in kept], *encoding)
        image_vectors = dict(zip(kept, encoded.vectors, strict=True))
        texts = encode_texts(ranker.towers, texts, precision=config.precision)
    selections = list(rank_items(ranker.model, poi, items, texts, recalled, image_vectors))

    names = [from_here(path) for path in images.paths]
    rows = write_selections(config.output_csv, selections, names)
    if config.html:
        write_selection_page(config.html, selections, images.paths, rule(config))
    report(selections, names, config)
    print(f"wrote {rows:,} rows to {config.output_csv}{f' and the page {config.html}' if config.html else ''}")


def wanted_items(config):
    """The one item of the command line, or those of the CSV."""
    from models.items import Item, read_items

    title, poi_names = config.title.strip(), config.poi_names.strip()
    one = title or poi_names
    if bool(one) == bool(config.items_csv):
        raise InputError("set either items_csv, or the title or poi_names (or both) of one item")
    return read_items(config.items_csv) if config.items_csv else [Item("1", title, poi_names)]


def poi_knowledge(config, items, dim: int):
    """What the POI files say; nothing where the default ones are not there."""
    from models.poi import PoiKnowledge

    keys = "poi_image_vectors", "poi_name_vectors", "poi_image_counts"
    files = [getattr(config, key) for key in keys]
    if files == [from_root(key, CONFIG[key]) for key in keys] and not any(Path(file).exists() for file in files):
        print("no POI files (poi_image_vectors …): ranking knows nothing of the POIs, their vectors are zeros")
        return PoiKnowledge({}, {}, {}, dim)
    poi = PoiKnowledge.load(*files, dim=dim)
    names = dict.fromkeys(name for item in items for name in poi.best(item.poi_names))
    listing(f"of {len(names):,} POI names, without a vector for ranking", poi.without_vector(names))
    return poi


def own_candidates(items, paths):
    """For each item the indices into `paths` of the images it names, in order, or None if it names none."""
    place = {path.name: index for index, path in enumerate(paths)}
    missing = [f"item {item.item_id}: {name}" for item in items for name in item.images if name not in place]
    listing("images of items left out because they are not there, or cannot be read", missing)
    return [sorted({place[name] for name in item.images if name in place}) if item.images else None for item in items]


def rule(config) -> str:
    """How images were chosen, in words."""
    least = "" if config.score_threshold is None else f" whose content score is at least {config.score_threshold}"
    images = f"The {config.recall_k} images of {from_here(config.image_dir)} that fit best"
    return f"{images}{least}, in the order of their click scores."


def report(selections, names, config) -> None:
    """The images of one item, or how many items there are; then every item that got none, and why."""
    if len(selections) == 1:
        report_item(selections[0], names)
    without = [selection for selection in selections if not selection.chosen]
    listing("items without an image", [f"item {each.item.item_id}: {why_none(each, config)}" for each in without])
    chosen = sum(selection.chosen for selection in selections)
    print(f"items: {len(selections):,}, {len(without):,} of them without an image; {chosen:,} images chosen")


def report_item(selection, names) -> None:
    """The listed images of an item, as in the result."""
    print(f"{selection.chosen} of {selection.candidates:,} images chosen for {selection.item.text}:")
    for choice in selection.choices:
        click = f"{choice.click_rank:4}  click {choice.click_score:7.4f}" if choice.click_rank else "   -" + " " * 15
        print(f"{click}  content {choice.recall_score:7.4f} (rank {choice.recall_rank})  {names[choice.index]}", end="")
        print("" if choice.click_rank else f"  {choice.verdict}")
    print(f"fell out: {selection.below_threshold:,} below_threshold, {selection.beyond_recall_k:,} beyond_recall_k")


def why_none(selection, config) -> str:
    if not selection.candidates:
        return "none of its own images can be read"
    best = f"; the best has {selection.choices[0].recall_score:.4f}" if selection.choices else ""
    return f"none of its {selection.candidates:,} images reaches score_threshold {config.score_threshold}{best}"


if __name__ == "__main__":
    sys.exit(main())
