"""The baseline of recall_speed.py: stage 1 as the release runs it, one thing after another.

python -m benchmarks.released_recall --model-path … --bert-path … --image-dir … --dataset-csv … --output-csv …
"""

CONFIG = {
    "model_path": "align_model.pth",  # recall weights
    "bert_path": "bert-base-chinese",  # a folder with vocab.txt
    "image_dir": "temp_recall_biztype0_fc5_imagern_500",  # images named {poi_id}_{rank_number}.jpg or .png
    "dataset_csv": "data/temp_recall_biztype0_fc5_imagern_500.csv",  # the POIs
    "output_csv": "data/released_scores.csv",  # the scores
}

import csv
import sys
from pathlib import Path

from models.script import run_script


def main(argv=None) -> int:
    return run_script(__name__, argv, score_images)


def score_images(config) -> None:
    from benchmarks.released_procedure import ReleasedAlign, encode_images, encode_texts, tokenizer
    from models.checkpoint import load_checkpoint

    with open(config.dataset_csv, encoding="utf-8", newline="") as file:
        names = {row[0]: row[1] for row in csv.reader(file)}
    paths = sorted(Path(config.image_dir).iterdir())
    model = ReleasedAlign()
    tensors = load_checkpoint(config.model_path).state
    model.load_state_dict({key: value for key, value in tensors.items() if key in model.state_dict()})
    model.eval()
    images = encode_images(model, paths)
    texts = encode_texts(model, tokenizer(Path(config.bert_path) / "vocab.txt"), list(names.values()))
    scores = texts @ images.T
    with open(config.output_csv, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        for (poi_id, name), row in zip(names.items(), scores.tolist(), strict=True):
            for path, score in zip(paths, row, strict=True):
                writer.writerow([poi_id, name, path, score])


if __name__ == "__main__":
    sys.exit(main())
