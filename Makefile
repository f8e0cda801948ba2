PYTHON ?= python3
BIN = .venv/bin

.PHONY: install lint test demo clean

# The stamp makes later runs skip the installation until a requirements file changes.
.venv/installed: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

install: .venv/installed

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	$(BIN)/python -m pytest

# A small world from scratch, without any download: both models are trained on it, then every script runs on the result.
# One thread for each process: the demo's convolutions are too small to gain from more, and the results do not depend
# on the machine's cores.
TOWERS = --model-path demo/align_best.pth --bert-path demo/bert
RANKER = --model-path demo/ranking_[0-9]*.ckpt --bert-path demo/bert
PAIRS = --dataset-csv demo/ranking_test.csv --image-dir demo/ranking_images

demo: export OMP_NUM_THREADS = 1
demo: export PYTHONUNBUFFERED = 1
demo: install
	rm -rf demo
	$(BIN)/python make_demo_data.py
	$(BIN)/python train_align.py --pairs-csv demo/align_pairs.csv --triples-csv demo/align_triples.csv --image-dir demo \
	  --val-csv demo/val_images.csv --val-image-dir demo/val_images --recall-k 1 \
	  --last-path demo/align_last.pth --best-path demo/align_best.pth --bert-path demo/bert \
	  --text-layers 2 --image-size 48 --image-width 0.35 --image-depth 0.2 --embed-dim 64 \
	  --steps 600 --warmup-steps 20 --learning-rate 2e-3 --logit-scale-rate 0.4 --no-dropout \
	  --triple-batch 8 --triple-weight 0.02 --log-every 20 --eval-every 100
	$(BIN)/python align_recall_test_with_mmkg_model.py $(TOWERS) --dataset-csv demo/recall_images.csv \
	  --image-dir demo/recall_images --output-csv demo/recall_scores.csv
	$(BIN)/python "align_recall@K.py" --scores-csv demo/recall_scores.csv --recall-k 1 5
	$(BIN)/python visualize_recall.py --scores-csv demo/recall_scores.csv --output-html demo/recall_gallery.html
	$(BIN)/python build_poi_vectors.py $(TOWERS) --dataset-csv demo/poi_images.csv --image-dir demo/poi_images \
	  --output-npz demo/poi_vectors.npz
	$(BIN)/python train_ranking.py --dataset-csv demo/ranking_train.csv --val-csv demo/ranking_val.csv \
	  --image-dir demo/ranking_images --align-path demo/align_best.pth --bert-path demo/bert \
	  --poi-image-vectors demo/poi_vectors.npz --output-prefix demo/ranking --no-augment --epochs 8
	$(BIN)/python local_eval_test.py $(RANKER) $(PAIRS) --poi-image-vectors demo/poi_vectors.npz \
	  --output-csv demo/pair_scores.csv
	$(BIN)/python -m benchmarks.zero_poi_vectors
	$(BIN)/python local_eval_test.py $(RANKER) $(PAIRS) --poi-image-vectors demo/zero_vectors.npz \
	  --output-csv demo/zero_vectors_scores.csv
	$(BIN)/python select_images.py $(RANKER) --title 周末游 --poi-names "$$(tail -1 demo/new_names.txt)" \
	  --image-dir demo/recall_images --poi-image-vectors demo/poi_vectors.npz \
	  --output-csv demo/selected_images.csv --html demo/selected_images.html
	$(BIN)/python -m benchmarks.demo_report

clean:
	rm -rf .venv .pytest_cache .ruff_cache
