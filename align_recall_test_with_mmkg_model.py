"""Stage 1, recall: score every image of a folder for every POI name of a table.

    python align_recall_test_with_mmkg_model.py --model-path align_model.pth

Reads the recall weights, BERT's vocabulary, the table `poi_id,poi_name,image_url,rank_number,width,height,extend`
and the images `{poi_id}_{rank_number}.jpg|png` that download_images.py fetched.  Writes one row
`poi_id,poi_name,image_path,score` for each POI and image, which `align_recall@K.py` turns into recall@K.
"""

CONFIG = {
    "model": "align",  # align: the recall model; taiyi or chinese_clip: baselines to compare it with
    "model_path": "align_model.pth",  # its weights; of a baseline a folder in the hub's layout or a hub name, which is
    # IDEA-CCNL/Taiyi-CLIP-Roberta-102M-Chinese or OFA-Sys/chinese-clip-vit-base-patch16 where this is left as it is
    "taiyi_weights": None,  # taiyi: a pytorch_model.bin to use instead of the folder's own, such as the authors'
    "clip_path": "openai/clip-vit-base-patch32",  # taiyi: its image tower, a folder in the hub's layout or a hub name
    "bert_path": "bert-base-chinese",  # align: a folder with BERT's vocabulary, else a name on the Hugging Face hub
    "image_dir": "temp_recall_biztype0_fc5_imagern_500",  # images named {poi_id}_{rank_number}.jpg or .png
    "dataset_csv": "data/temp_recall_biztype0_fc5_imagern_500.csv",  # the POIs
    "output_csv": "data/align_recall@k_with_MKG_20221021_poi_500.csv",  # the scores
    "batch_size": None,  # images at a time in each worker; None: 2 on a CPU, 64 on a GPU
    "num_workers": None,  # threads that decode and encode; None: one for each core
    "device": "auto",  # auto, cpu or cuda
    "precision": "fp32",  # fp32 (exact), bf16 or fp16
    "top_k": None,  # write only this many best images of each POI; None: all
}


from models.errors import InputError
from models.images import poi_of_image
from models.script import from_here, from_root, leave, progress, run_script

HUB_NAMES = {  # of the baselines as they were published
    "taiyi": "IDEA-CCNL/Taiyi-CLIP-Roberta-102M-Chinese",
    "chinese_clip": "OFA-Sys/chinese-clip-vit-base-patch16",
}


def main(argv=None) -> int:
    return run_script(
        __name__,
        argv,
        score_images,
        types={"batch_size": int, "num_workers": int, "top_k": int},
        choices={"model": ["align", *HUB_NAMES], "precision": ["fp32", "bf16", "fp16"]},
        resolve=choose_baseline,
    )


def choose_baseline(config) -> None:
    """A baseline whose model_path is left at the recall model's weight file is the published one on the hub."""
    left = config.model_path == from_root("model_path", CONFIG["model_path"]) and config.model_path.endswith(".pth")
    if left and config.model in HUB_NAMES:
        config.model_path = HUB_NAMES[config.model]


def load_towers(config):
    from models.baselines import load_chinese_clip, load_taiyi
    from models.loading import load_align

    if config.model == "taiyi":
        return load_taiyi(config.model_path, config.taiyi_weights, config.clip_path, config.device)
    if config.model == "chinese_clip":
        return load_chinese_clip(config.model_path, config.device)
    return load_align(config.model_path, config.bert_path, config.device)


def score_images(config) -> None:
    from models.encode import encode_images, encode_texts
    from models.files import check_output
    from models.images import list_images
    from models.left_out import LeftOut
    from models.recall_scores import write_recall_scores
    from models.tables import poi_names, read_recall_table

    check_output(config.output_csv)
    left_out = LeftOut(config.output_csv)
    names = poi_names(read_recall_table(config.dataset_csv))  # poi_id -> name
    paths, nameless = split_by_name(list_images(config.image_dir))
    left_out.list("images left out because their name has no `_` after a POI", nameless)
    if not paths:
        raise InputError(f"{config.image_dir}: no image is named {{poi_id}}_{{rank_number}}.jpg or .png")

    towers = load_towers(config)
    images = encode_images(towers, paths, config.batch_size, config.num_workers, config.precision)
    left_out.list("images left out because they cannot be read", [f"{path}: {why}" for path, why in images.failed])
    if not images.paths:
        raise InputError(f"{config.image_dir}: none of its {len(paths)} images can be read")
    texts = encode_texts(towers, names.values(), precision=config.precision)

    rows = write_recall_scores(
        config.output_csv,
        ((poi_id, name, texts[name]) for poi_id, name in progress(names.items(), desc="scores", unit="POI")),
        [from_here(path) for path in images.paths],
        images.vectors,
        config.top_k,
    )
    owners = {poi_of_image(path.name) for path in images.paths}
    strangers = sum(poi_of_image(path.name) not in names for path in images.paths)
    print(f"images: {len(images.paths)} scored, {len(images.failed)} unreadable, {strangers} of no POI in the table")
    print(f"POIs: {len(names)} in the table, {len(names.keys() - owners)} of them without any image")
    left_out.write()
    print(f"wrote {rows} rows to {config.output_csv}")


def split_by_name(paths):
    """Images that name their POI, and the names of those that do not."""
    named = [path for path in paths if "_" in path.name]
    return named, [path.name for path in paths if "_" not in path.name]


if __name__ == "__main__":
    leave(main())
