"""The release's own way to evaluate pairs: the oracle of the ranking model's tests and the baseline of its benchmark.

    python -m benchmarks.ranking_procedure

Pair after pair: both images decoded and encoded alone, the title and the POI names encoded each time, and the network
written out in plain tensor operations, one image at a time.  Writes the same CSV as local_eval_test.py.
"""

CONFIG = {
    "dataset_csv": "data/dwd_mml_train_dataset_1007_urls_val_with_poi_tuomin.csv",  # the pairs
    "image_dir": "data/ranking_images",  # their images
    "model_path": "shoucai_siamese_train_concat_poi_020_0.6520.ckpt",  # a bare state dict
    "bert_path": "bert-base-chinese",  # a folder with vocab.txt
    "poi_image_vectors": "temp_dataset_item_pois_relation_0110_imgs_avg10_vector.npy",  # the three POI files
    "poi_name_vectors": "temp_dataset_item_pois_relation_0110_poi_name_vector.npy",
    "poi_image_counts": "temp_dataset_item_pois_relation_1129_poi_2_pic_num.npy",
    "output_csv": "data/local_eval_scores.csv",  # the scores
}

import sys
from pathlib import Path
from urllib.parse import urlsplit

import torch
from torch import Tensor

from benchmarks.released_procedure import ReleasedAlign, encode_texts, preprocess, tokenizer
from models.safe_pickle import load_pickled_npy
from models.script import parse_config

DICE = "attention_layer.local_att.fc1.fc.1.bn"


def poi_features(poi_names: str, image_vectors: dict, name_vectors: dict, counts: dict, dim: int):
    """(5, dim) image vectors, (5, dim) name vectors, number of POIs."""
    images, names = torch.zeros(5, dim), torch.zeros(5, dim)
    if len(poi_names) < 2:
        return images, names, 0
    ranked = []
    for position, name in enumerate(poi_names.split(",")):
        n0, n1, n2 = counts.get(name.strip(), [0, 0, 0])
        ranked.append((-(n0 + 5 * n1 + 3 * n2), position, name))
    kept = [name for _, _, name in sorted(ranked)][:5]
    for position, name in enumerate(kept):
        images[position] = torch.as_tensor(image_vectors.get(name, [0.0] * dim))
        names[position] = torch.as_tensor(name_vectors.get(name, [0.0] * dim))
    return images, names, len(kept)


def linear(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def dice(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    normalised = (x - weights[f"{DICE}.running_mean"]) / torch.sqrt(weights[f"{DICE}.running_var"] + 1e-9)
    s = torch.sigmoid(normalised * weights[f"{DICE}.weight"] + weights[f"{DICE}.bias"])
    alpha = 0.0
    return s * x + alpha * (1 - s) * x


def score_image(weights: dict[str, Tensor], image: Tensor, text: Tensor, pois: tuple[Tensor, Tensor, int]) -> float:
    """The score of one image vector (D,) for an item's text vector (D,) and POI features."""
    poi_images, poi_names, count = pois
    pooled = torch.zeros_like(image)
    for position in range(count):  # the weights of the others are 0
        p = linear(weights, "linear1", torch.cat([poi_images[position], poi_names[position]]))
        x = torch.cat([image, p, image - p, image * p])
        x = dice(weights, linear(weights, "attention_layer.local_att.fc1.fc.0", x))
        x = linear(weights, "attention_layer.local_att.fc1.fc.3", x)
        pooled = pooled + linear(weights, "attention_layer.local_att.fc2.fc.0", x) * p
    x = torch.relu(linear(weights, "linear3", torch.cat([image, text, pooled])))
    x = torch.relu(linear(weights, "linear4", x))
    return linear(weights, "linear2", x).item()


def main(argv=None) -> int:
    evaluate(parse_config(CONFIG, argv, __doc__, __file__))  # not run_script, which starts and ends faster
    return 0


@torch.no_grad()
def evaluate(config) -> None:
    weights = torch.load(config.model_path, weights_only=True)
    prefix = "align_model."
    align = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    model = ReleasedAlign(vocab_size=len(align["text_model.embeddings.word_embeddings.weight"]))
    align.pop("text_model.embeddings.position_ids", None)
    model.load_state_dict(align)
    model.eval()
    tokenize = tokenizer(Path(config.bert_path) / "vocab.txt")
    files = config.poi_image_vectors, config.poi_name_vectors, config.poi_image_counts
    knowledge = [load_pickled_npy(path) for path in files]

    right = total = 0
    with open(config.dataset_csv, encoding="utf-8") as table, open(config.output_csv, "w", encoding="utf-8") as output:
        print("item_id,image_a,image_b,score_a,score_b,label", file=output)
        for line in table:
            item_id, _, _, ctr_a, ctr_b, title, _, *urls, poi_names = line.rstrip("\n").split("$record$")
            images = [urlsplit(url).path.rsplit("/")[-1] for url in urls]
            title_vector, poi_vector = (encode_texts(model, tokenize, [text])[0] for text in (title, poi_names))
            text = poi_vector if poi_names else title_vector
            pois = poi_features(poi_names, *knowledge, dim=len(text))
            scores = []
            for name in images:
                pixels = preprocess(Path(config.image_dir) / name)
                scores.append(score_image(weights, model.encode_image(pixels[None])[0], text, pois))
            label = float(ctr_a) > float(ctr_b)
            right += (scores[0] > scores[1]) == label
            total += 1
            print(item_id, *images, *(f"{score:.9g}" for score in scores), int(label), sep=",", file=output)
    print(f"AUC = {right / total:.3f}")


if __name__ == "__main__":
    sys.exit(main())
