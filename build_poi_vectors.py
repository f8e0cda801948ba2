"""POI vectors from a recall model: what the ranking model knows of each POI, for a retrained model or for new POIs.

    python build_poi_vectors.py --model-path align_model.pth --image-dir temp_recall_biztype0_fc5_imagern_500
    python local_eval_test.py --poi-image-vectors data/poi_vectors.npz

Reads the recall weights, BERT's vocabulary, the table of POIs and their images {poi_id}_{rank_number}.jpg|png.  Writes
for each POI name, in one .npz without pickle, the mean of its first ten L2-normalised image vectors, its name vector,
and its number of images.  POIs of the same name become one, their images taken together by rank.  A POI without a
readable image has a name vector and the count 0.
"""

CONFIG = {
    "model_path": "align_model.pth",  # the recall model's weights
    "bert_path": "bert-base-chinese",  # a folder with BERT's vocabulary, else a name on the Hugging Face hub
    "image_dir": "temp_recall_biztype0_fc5_imagern_500",  # images named {poi_id}_{rank_number}.jpg or .png
    "dataset_csv": "data/temp_recall_biztype0_fc5_imagern_500.csv",  # the POIs
    "output_npz": "data/poi_vectors.npz",  # the vectors
    "batch_size": None,  # images at a time in each worker; None: 2 on a CPU, 64 on a GPU
    "num_workers": None,  # threads that decode and encode; None: one for each core
    "device": "auto",  # auto, cpu or cuda
    "precision": "fp32",  # fp32 (exact), bf16 or fp16
}

import sys
from pathlib import Path

from models.errors import InputError
from models.script import listing, run_script

IMAGES_PER_POI = 10


def main(argv=None) -> int:
    types = {"batch_size": int, "num_workers": int}
    return run_script(__name__, argv, build_vectors, types, {"precision": ["fp32", "bf16", "fp16"]})


def build_vectors(config) -> None:
    import torch

    from models.encode import encode_images, encode_texts
    from models.files import check_output
    from models.images import list_images
    from models.loading import load_align
    from models.poi import PoiKnowledge
    from models.tables import poi_names, read_recall_table

    check_output(config.output_npz)
    names = poi_names(read_recall_table(config.dataset_csv))  # poi_id -> name
    images = images_of_names(list_images(config.image_dir), names)
    if not images:
        raise InputError(f"{config.image_dir}: no image belongs to a POI of {config.dataset_csv}")

    towers = load_align(config.model_path, config.bert_path, config.device)
    paths = [path for each in images.values() for path in each[:IMAGES_PER_POI]]
    encoded = encode_images(towers, paths, config.batch_size, config.num_workers, config.precision)
    listing("images left out because they cannot be read", [f"{path}: {reason}" for path, reason in encoded.failed])
    if not encoded.paths:
        raise InputError(f"{config.image_dir}: none of its {len(paths)} images can be read")
    name_vectors = encode_texts(towers, names.values(), precision=config.precision)

    vectors = dict(zip(encoded.paths, encoded.vectors, strict=True))
    unreadable = {path for path, _ in encoded.failed}
    image_vectors, counts = {}, {}
    for name in dict.fromkeys(names.values()):
        good = [path for path in images.get(name, []) if path not in unreadable]
        counts[name] = (len(good), 0, 0)  # the release's second and third count are of other sources of images
        if used := [vectors[path] for path in good if path in vectors]:
            image_vectors[name] = torch.stack(used).mean(dim=0)  # (D,), of unit vectors and itself shorter
    PoiKnowledge(image_vectors, name_vectors, counts, encoded.vectors.shape[1]).save(config.output_npz)
    merged = len(names) - len(counts)
    print(f"images: {len(vectors)} encoded, {len(unreadable)} unreadable, at most {IMAGES_PER_POI} of each POI name")
    print(f"POIs: {len(names)} in the table, {merged} merged with another of the same name")
    lacking = len(counts) - len(image_vectors)
    print(f"wrote {len(counts)} POI names to {config.output_npz}, {lacking} without an image vector")


def images_of_names(paths: list[Path], names: dict[str, str]) -> dict[str, list[Path]]:
    """POI name -> its images by rank; files that belong to no POI in `names` are counted and left out."""
    images, strangers = {}, []
    for path in paths:
        poi_id, separator, rank = path.stem.partition("_")
        if separator and poi_id in names:
            images.setdefault(names[poi_id], []).append((int(rank) if rank.isdecimal() else sys.maxsize, path))
        else:
            strangers.append(path.name)
    listing("images left out because they belong to no POI of the table", strangers)
    return {name: [path for _, path in sorted(each)] for name, each in images.items()}


if __name__ == "__main__":
    sys.exit(main())
