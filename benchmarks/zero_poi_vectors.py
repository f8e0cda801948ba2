"""POI knowledge with its vectors set to zero, to see how much ranking gains from them.

python -m benchmarks.zero_poi_vectors --poi-npz demo/poi_vectors.npz --output-npz demo/zero_vectors.npz
"""

CONFIG = {
    "poi_npz": "demo/poi_vectors.npz",  # as build_poi_vectors.py writes it
    "output_npz": "demo/zero_vectors.npz",  # the same names and image counts, without vectors
}

import sys

from models.script import run_script


def main(argv=None) -> int:
    return run_script(__name__, argv, zero_vectors)


def zero_vectors(config) -> None:
    import numpy as np
    import torch

    from models.poi import PoiKnowledge

    with np.load(config.poi_npz, allow_pickle=False) as file:
        dim = file["image_vectors"].shape[1]
    poi = PoiKnowledge.load(config.poi_npz, "", "", dim)
    images, names = (dict.fromkeys(vectors, torch.zeros(dim)) for vectors in (poi.image_vectors, poi.name_vectors))
    PoiKnowledge(images, names, poi.counts, dim).save(config.output_npz)
    print(f"wrote {config.output_npz}")


if __name__ == "__main__":
    sys.exit(main())
