"""Judge recall by looking: an HTML gallery of stage 1's result, each POI with its best images.

    python visualize_recall.py
    python visualize_recall.py --text 普陀山风景区 --output-html 普陀山.html

Reads a result of align_recall_test_with_mmkg_model.py and the images it names.  Writes a page, and small JPEGs of the
images shown in the folder `{page}_thumbnails` beside it: for each POI hit or miss and its best images with their
scores, own ones marked; for the POI named by `text` all images from best to worst.  Move page and folder together.
"""

CONFIG = {
    "scores_csv": "data/align_recall@k_with_MKG_20221021_poi_500.csv",  # a result of the recall script
    "image_dir": None,  # where the images are now; None: where the result says
    "output_html": "data/recall_gallery.html",  # the page
    "top_k": 10,  # show this many images of each POI, best first
    "recall_k": 5,  # a POI is a hit where one of this many best images is its own
    "text": None,  # a POI's name: it comes first and shows all images from best to worst
    "thumbnail_size": 320,  # pixels along the longer side
}

import sys
from pathlib import Path

from models.errors import InputError
from models.script import listing, run_script


def main(argv=None) -> int:
    return run_script(__name__, argv, visualize)


def visualize(config) -> None:
    from models.files import check_output
    from models.gallery import write_gallery
    from models.recall_results import read_recall_scores

    check_output(config.output_html)
    if config.image_dir and not Path(config.image_dir).is_dir():
        raise InputError(f"{config.image_dir}: no such folder; set image_dir to where the images are now")
    scores = read_recall_scores(config.scores_csv)
    check_fits(scores, config)

    gone = write_gallery(
        config.output_html,
        scores,
        config.top_k,
        config.recall_k,
        config.text,
        config.image_dir,
        config.thumbnail_size,
    )
    listing("images that are not there any more, or unreadable (a placeholder; image_dir says where they are)", gone)
    print(f"wrote {config.output_html}: {len(scores.poi_ids):,} POIs, {len(scores.images):,} images in the result")


def check_fits(scores, config) -> None:
    """InputError where the result does not hold what is to be shown."""
    from models.gallery import nearest_names

    kept = len(scores.rows[0])
    if scores.truncated and config.recall_k > kept:
        raise InputError(f"{scores.path}: holds only the {kept} best images of each POI; set recall_k to at most that")
    if config.text is not None and config.text not in scores.poi_names:
        near = ", ".join(nearest_names(config.text, scores.poi_names))
        raise InputError(f"{scores.path}: no POI is named {config.text!r}; set text to a name that is, like {near}")


if __name__ == "__main__":
    sys.exit(main())
