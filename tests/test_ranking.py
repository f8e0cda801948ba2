"""The ranking network against the same written out by hand, mistakes that this must notice, and its checkpoints."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ranking_world import ITEMS, make_pairs, write_poi_files, write_ranking_checkpoint
from test_checkpoint import released_tensors

from benchmarks.ranking_procedure import poi_features, score_image
from models import pair_scores, poi, ranking
from models.align import AlignModel
from models.checkpoint import load_checkpoint, save_checkpoint
from models.errors import InputError
from models.loading import load_align, load_ranking
from models.pair_scores import score_pairs
from models.poi import PoiKnowledge
from models.ranking import RankingConfig, RankingModel

DIM = 16


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_align):
    return write_ranking_checkpoint(tmp_path_factory.mktemp("ranking") / "ranking.ckpt", tiny_align)


@pytest.fixture(scope="module")
def poi_files(tmp_path_factory):
    return write_poi_files(tmp_path_factory.mktemp("poi"), DIM)


class World:
    """Vectors of images and texts, and the scores that the network written out by hand gives."""

    def __init__(self, checkpoint, poi_files):
        self.pairs = make_pairs([f"{number}.jpg" for number in range(7)])
        generator = torch.Generator().manual_seed(1)
        names = [f"{number}.jpg" for number in range(7)], [*ITEMS, *ITEMS.values()]
        self.images, self.texts = (
            dict(zip(each, F.normalize(torch.randn(len(each), DIM, generator=generator), dim=-1), strict=True))
            for each in names
        )
        weights = load_checkpoint(checkpoint).state
        knowledge = [np.load(path, allow_pickle=True).item() for path in poi_files]  # made by this test
        self.expected = torch.tensor(
            [
                [
                    score_image(weights, self.images[name], text, poi_features(pair.poi_names, *knowledge, dim=DIM))
                    for name in (pair.image_a, pair.image_b)
                ]
                for pair in self.pairs
                for text in [self.texts[pair.poi_names if pair.poi_names else pair.title]]
            ]
        )  # (pairs, 2)

    def ours(self, checkpoint, poi_files, vocabulary, batch_size=256):
        model = load_ranking(checkpoint, str(vocabulary), "cpu").model
        knowledge = PoiKnowledge.load(*poi_files, dim=DIM)
        scores = score_pairs(model, knowledge, self.pairs, self.images, self.texts, batch_size)
        return torch.tensor(np.stack(scores, axis=1))


@pytest.fixture(scope="module")
def world(checkpoint, poi_files):
    return World(checkpoint, poi_files)


def test_every_score_is_exact(world, checkpoint, poi_files, vocabulary):
    assert world.expected.std() > 0.3, "the weights must react to images and items"
    torch.testing.assert_close(world.ours(checkpoint, poi_files, vocabulary), world.expected, atol=1e-5, rtol=0)


def test_one_by_one_and_together_give_the_same(world, checkpoint, poi_files, vocabulary):
    for batch_size in (1, 4):
        scores = world.ours(checkpoint, poi_files, vocabulary, batch_size)
        torch.testing.assert_close(scores, world.expected, atol=1e-5, rtol=0)


def add_softmax(patch):
    masked_fill = torch.Tensor.masked_fill
    patch.setattr(torch.Tensor, "masked_fill", lambda self, mask, _: masked_fill(self, mask, -1e9).softmax(1))


def drop_mask(patch):
    patch.setattr(torch.Tensor, "masked_fill", lambda self, mask, value: self)


def reverse_sort(patch):
    prominence = PoiKnowledge.prominence
    patch.setattr(PoiKnowledge, "prominence", lambda self, name: -prominence(self, name))


def do_not_sort(patch):
    patch.setattr(PoiKnowledge, "prominence", lambda self, name: 0)


def unstable_sort(patch):
    patch.setattr(poi, "sorted", lambda names, key, reverse: sorted(names, key=key)[::-1], raising=False)


def other_count_weights(patch):
    patch.setattr(poi, "COUNT_WEIGHTS", (1, 3, 5))


def do_not_strip_for_counts(patch):
    prominence = PoiKnowledge.prominence
    patch.setattr(PoiKnowledge, "prominence", lambda self, name: name == name.strip() and prominence(self, name))


def strip_for_vectors(patch):
    best = PoiKnowledge.best
    patch.setattr(PoiKnowledge, "best", lambda self, names: [name.strip() for name in best(self, names)])


def one_character_is_a_poi(patch):
    best = PoiKnowledge.best
    patch.setattr(PoiKnowledge, "best", lambda self, names: [names] if len(names) == 1 else best(self, names))


def do_not_count_unknown_names(patch):
    best = PoiKnowledge.best
    known = lambda self, names: [name for name in best(self, names) if name in self.image_vectors]  # noqa: E731
    patch.setattr(PoiKnowledge, "best", known)


def six_pois(patch):
    patch.setattr(poi, "MAX_POIS", 6)


def title_first(patch):
    patch.setattr(pair_scores, "item_text", lambda title, poi_names: title or poi_names)


def swap_poi_vectors(patch):
    features = PoiKnowledge.features
    patch.setattr(PoiKnowledge, "features", lambda self, names: [features(self, names)[part] for part in (1, 0, 2)])


def usual_eps(patch):
    patch.setattr(ranking.Dice, "__init__", dice_with(eps=1e-5))


def relu_for_dice(patch):
    patch.setattr(ranking.Dice, "forward", lambda self, x: F.relu(x))


def dice_with(eps):
    def init(self, size):
        torch.nn.Module.__init__(self)
        self.bn = torch.nn.BatchNorm1d(size, eps=eps)

    return init


MISTAKES = [add_softmax, drop_mask, reverse_sort, do_not_sort, unstable_sort, other_count_weights]
MISTAKES += [do_not_strip_for_counts, strip_for_vectors, one_character_is_a_poi, do_not_count_unknown_names, six_pois]
MISTAKES += [title_first, swap_poi_vectors, usual_eps, relu_for_dice]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_comparison_notices(mistake, world, checkpoint, poi_files, vocabulary, monkeypatch):
    mistake(monkeypatch)
    assert (world.ours(checkpoint, poi_files, vocabulary) - world.expected).abs().max() > 1e-4


def test_every_released_tensor_loads_strictly(tmp_path, vocabulary):
    inside = {key: value for key, value in released_tensors("align_model").items() if "relation" not in key}
    tensors = {f"align_model.{key}": value for key, value in inside.items()} | released_tensors("ranking_model")
    tensors["linear2.weight"] += 1.5
    torch.save(tensors, tmp_path / "released.ckpt")

    model, towers = load_ranking(tmp_path / "released.ckpt", str(vocabulary), "cpu")
    loaded = model.state_dict()
    assert loaded.keys() == tensors.keys() - {"align_model.text_model.embeddings.position_ids"}
    assert all(torch.equal(loaded[key], tensors[key]) for key in loaded)
    assert not model.training and model.config == RankingConfig()
    assert towers.model is model.align_model and towers.preprocess.size == 224


def test_own_checkpoints_carry_their_sizes(tmp_path, tiny_config, vocabulary):
    config = RankingConfig(**vars(tiny_config), attention_hidden=6, attention_output=5, head_hidden=8, head_output=7)
    model = RankingModel(config)
    save_checkpoint(tmp_path / "own.ckpt", model, epoch=7)
    loaded = load_ranking(tmp_path / "own.ckpt", str(vocabulary), "cpu")
    assert loaded.model.config == config and loaded.model.align_model.config == tiny_config
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.model.state_dict().items())


def test_the_two_kinds_of_checkpoint_are_told_apart(checkpoint, tiny_align, vocabulary):
    with pytest.raises(InputError, match="this is a recall checkpoint; the ranking model is wanted"):
        load_ranking(tiny_align, str(vocabulary), "cpu")
    with pytest.raises(InputError, match="this is a ranking checkpoint; the recall model is wanted"):
        load_align(checkpoint, str(vocabulary), "cpu")


def test_a_file_that_does_not_fit_is_named(tmp_path, checkpoint, vocabulary):
    content = torch.load(checkpoint, weights_only=True)
    del content["state_dict"]["linear3.bias"]
    content["state_dict"]["linear5.weight"] = torch.zeros(1)
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(InputError, match=r"odd.ckpt: .*1 missing: linear3.bias; 1 unexpected: linear5.weight"):
        load_ranking(tmp_path / "odd.ckpt", str(vocabulary), "cpu")
    with pytest.raises(InputError, match=r"absent.ckpt: no such file; .*download_release.py.*0.6520.ckpt"):
        load_ranking(tmp_path / "absent.ckpt", str(vocabulary), "cpu")


def test_training_drops_out_as_published_and_leaves_the_recall_model_alone(tiny_config, monkeypatch):
    model = RankingModel(RankingConfig(**vars(tiny_config))).train()
    assert not any(module.training for module in model.align_model.modules())
    assert not any(parameter.requires_grad for parameter in model.align_model.parameters())
    rates = []
    dropout = torch.nn.functional.dropout
    monkeypatch.setattr(
        F, "dropout", lambda x, p, training, inplace: rates.append(p) or dropout(x, p, training, inplace)
    )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    batch = [torch.randn(8, DIM), torch.randn(8, DIM), torch.randn(8, 5, DIM), torch.randn(8, 5, DIM)]
    score = model(*batch, torch.full((8,), 3)).sum()
    score.backward()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert rates == [0.1, 0.2, 0.1, 0.1]  # POIs, attention, head, head
    assert changed == {f"attention_layer.local_att.fc1.fc.1.bn.{name}" for name in (
        "running_mean", "running_var", "num_batches_tracked")}  # fmt: skip
    trained = [key for key, parameter in model.named_parameters() if parameter.grad is not None]
    assert trained and not any(key.startswith("align_model.") for key in trained)


def test_the_recall_model_inside_can_be_saved_alone(tmp_path, checkpoint, vocabulary):
    model = load_ranking(checkpoint, str(vocabulary), "cpu").model
    assert isinstance(model.align_model, AlignModel)
    save_checkpoint(tmp_path / "recall.pth", model.align_model)
    load_align(tmp_path / "recall.pth", str(vocabulary), "cpu")
