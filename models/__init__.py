"""Two-stage image selection: a recall model, a ranking model, and what both need.

from models import load_align
model, preprocess, tokenize = load_align("align_model.pth", "bert-base-chinese")
"""

from importlib import import_module

# Imported on first use: torch and transformers take seconds, and neither `--help` nor a download needs them.
PUBLIC = {
    "AlignConfig": "align",
    "AlignModel": "align",
    "InputError": "errors",
    "Item": "items",
    "PoiKnowledge": "poi",
    "RankingConfig": "ranking",
    "RankingModel": "ranking",
    "TwoTower": "loading",
    "encode_images": "encode",
    "encode_texts": "encode",
    "load_align": "loading",
    "load_chinese_clip": "baselines",
    "load_ranking": "loading",
    "load_taiyi": "baselines",
    "pair_metrics": "ranking_metrics",
    "rank_items": "selection",
    "read_recall_scores": "recall_results",
    "recall_at_k": "recall_metrics",
    "recall_items": "selection",
    "write_gallery": "gallery",
}
__all__ = sorted(PUBLIC)


def __getattr__(name: str):
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{PUBLIC[name]}", __name__), name)
