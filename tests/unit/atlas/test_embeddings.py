"""Unit embeddings, nearest neighbors and the map: formulas, planted groups, valid tables and sheets."""

import importlib.util
import io

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from pipeline.atlas.format.file_list import build_id, file_entry
from pipeline.atlas.format.schema import neighbors_path
from pipeline.atlas.format.sheets import draw_sheet
from pipeline.atlas.neighbors.embeddings import NO_SAMPLE, TopImages, top_image_weights, unit_embeddings
from pipeline.atlas.neighbors.find import find_neighbors
from pipeline.atlas.neighbors.map_sheets import MAP_TILE_PX, draw_map_sheets, map_tile_box
from pipeline.atlas.neighbors.nearest import NO_NEIGHBOR, nearest_neighbors
from pipeline.atlas.neighbors.projection import MAP_SIDE, layout, morton_order, quantize
from pipeline.atlas.validation.map_checks import map_problems, neighbor_problems
from pipeline.atlas.validation.validate import validate
from pipeline.io.images import decode_webp, encode_webp
from pipeline.io.parquet import read_rows, write_table
from pipeline.io.root import Root
from tests.support.synthetic_atlas import build, build_synthetic_atlas, draw_visualization, status_of

SMALL_LAYERS = {"conv_stem": (16, 12), "blocks.2.1": (96, 20), "classifier": (1000, 12)}

needs_layout = pytest.mark.skipif(
    importlib.util.find_spec("openTSNE") is None, reason="openTSNE is not installed (extra 'map')"
)


def planted(num_groups: int = 4, per_group: int = 15, k: int = 6, seed: int = 0) -> tuple[TopImages, np.ndarray]:
    """Neurons of a group draw their top-activating images from the group's 12 dataset images; and the group of each."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(num_groups), per_group)
    own = rng.permuted(np.tile(np.arange(12), (len(groups), 1)), axis=1)[:, :k]
    activation = np.sort(rng.uniform(1, 5, (len(groups), k)))[:, ::-1].astype(np.float32)
    return TopImages(activation=activation, sample=groups[:, None] * 12 + own, mean=np.zeros(len(groups))), groups


def test_weights_are_lifts_above_the_mean_whatever_scale_and_shift():
    top_images = TopImages(
        activation=np.array([[5, 3, 1, -np.inf], [0, 0, 0, 0], [np.float32(-1), -2, -3, -4]], np.float32),
        sample=np.array([[7, 8, 9, NO_SAMPLE], [0, 1, 2, 3], [4, 5, 6, 7]]),
        mean=np.array([1.0, 0.0, -3.0]),
    )
    expected = [[1, 0.5, 0, 0], [0, 0, 0, 0], [1, 0.5, 0, 0]]
    np.testing.assert_allclose(top_image_weights(top_images), expected)


def test_with_all_dimensions_the_cosine_is_that_of_the_weighted_matrix():
    top_images, _ = planted()
    weight = top_image_weights(top_images)
    num_neurons, num_dataset_images = len(weight), top_images.sample.max() + 1
    counts = np.bincount(top_images.sample[weight > 0], minlength=num_dataset_images)
    matrix = np.zeros((num_neurons, num_dataset_images))
    for i in range(num_neurons):
        for j, sample in enumerate(top_images.sample[i]):
            matrix[i, sample] = weight[i, j] * (np.log((1 + num_neurons) / (1 + counts[sample])) + 1)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    found = unit_embeddings(top_images, num_dimensions=1000)
    np.testing.assert_allclose(found @ found.T, matrix @ matrix.T, atol=1e-4)


def test_neurons_of_one_group_are_each_others_neighbors_and_the_same_on_every_run():
    top_images, groups = planted()
    index, cosine = nearest_neighbors(unit_embeddings(top_images), 5)
    assert (groups[index] == groups[:, None]).all()
    assert (np.diff(cosine, axis=1) <= 0).all()
    assert not (index == np.arange(len(groups))[:, None]).any()
    again = nearest_neighbors(unit_embeddings(top_images), 5)
    assert (index == again[0]).all()
    assert (cosine == again[1]).all()


def test_the_number_of_threads_does_not_change_a_byte_and_blocks_change_only_rounding(monkeypatch):
    top_images, _ = planted(num_groups=40, seed=3)
    found = []
    for num_threads in (1, 2):
        with threadpool_limits(num_threads):
            embedding = unit_embeddings(top_images)
            found.append((embedding.tobytes(), *(part.tobytes() for part in nearest_neighbors(embedding, 7))))
    assert found[0] == found[1]
    monkeypatch.setattr("pipeline.atlas.neighbors.embeddings._BLOCK_COLUMNS", 11)
    np.testing.assert_allclose(unit_embeddings(top_images), embedding, atol=1e-5)


def test_neighbors_are_those_of_the_whole_product():
    unit_embedding = unit_embeddings(planted(seed=3)[0])
    product = unit_embedding @ unit_embedding.T
    np.fill_diagonal(product, -1)
    index, cosine = nearest_neighbors(unit_embedding, 7)
    np.testing.assert_allclose(cosine, -np.sort(-product, axis=1)[:, :7], atol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(product, index, 1), cosine, atol=1e-4)


def test_a_dead_neuron_has_no_neighbors_and_is_none_and_is_on_no_map():
    top_images, _ = planted()
    top_images.activation[3] = 0
    neighbors = find_neighbors(
        [("a", unit) for unit in range(60)],
        top_images,
        layout=lambda unit_embedding: unit_embedding[:, :2],
        layout_name="test",
    )
    assert (neighbors.index[3] == NO_NEIGHBOR).all()
    assert np.isnan(neighbors.cosine[3]).all()
    assert not (neighbors.index == 3).any()
    assert sorted(neighbors.on_map.tolist()) == [unit for unit in range(60) if unit != 3]


@pytest.mark.parametrize("num_neurons", [0, 1, 2])
def test_atlases_of_hardly_any_neurons_have_neighbors_as_far_as_there_are_and_no_map(num_neurons):
    top_images, _ = planted(num_groups=1, per_group=max(1, num_neurons))
    few = TopImages(
        activation=top_images.activation[:num_neurons],
        sample=top_images.sample[:num_neurons],
        mean=top_images.mean[:num_neurons],
    )
    neighbors = find_neighbors([("a", unit) for unit in range(num_neurons)], few, layout=layout)
    assert (neighbors.index != NO_NEIGHBOR).sum() in (0, num_neurons * (num_neurons - 1))
    assert neighbors.note()["map"] is None


def test_places_fill_the_square_in_proportion_and_go_along_the_morton_curve():
    xy = quantize(np.array([[-1.0, 0.0], [3.0, 0.0], [1.0, 1.0]]))
    assert xy[:, 0].tolist() == [0, MAP_SIDE - 1, (MAP_SIDE - 1) // 2 + 1]
    assert xy[2, 1] - xy[0, 1] == pytest.approx(MAP_SIDE / 4, abs=1)
    assert (quantize(np.zeros((3, 2))) == MAP_SIDE // 2).all()
    corners = np.array([[1, 1], [0, 1], [1, 0], [0, 0], [2, 0]], np.int32)
    assert morton_order(corners).tolist() == [3, 2, 1, 0, 4]


@needs_layout
def test_the_layout_keeps_groups_together_and_is_the_same_on_every_run():
    top_images, groups = planted(num_groups=3, per_group=20)
    unit_embedding = unit_embeddings(top_images)
    places = layout(unit_embedding, seed=5)
    assert (layout(unit_embedding, seed=5) == places).all()
    centers = np.stack([places[groups == group].mean(axis=0) for group in range(3)])
    nearest = np.linalg.norm(places[:, None] - centers, axis=2).argmin(axis=1)
    assert (nearest == groups).mean() > 0.95


def test_thumbnails_of_the_map_are_cut_from_the_contact_sheets_each_read_once():
    tiles = [draw_visualization(seed, size_px=112) for seed in range(3)]
    sheets = {"a": draw_sheet(tiles), "b": draw_sheet(tiles[::-1])}
    places = [("a", 0), ("b", 1), ("a", 2)] * 100
    read = []

    def read_sheet(path):
        read.append(path)
        return sheets[path]

    drawn = list(draw_map_sheets(places, read_sheet, io.BytesIO()))
    assert read == ["a", "b"]
    assert [path for path, _ in drawn] == ["map/0000.webp", "map/0001.webp"]
    for position, (_, tile) in enumerate(places):
        left, top, right, bottom = map_tile_box(position)
        shown = drawn[position // 256][1][top:bottom, left:right]
        assert shown.shape == (MAP_TILE_PX, MAP_TILE_PX, 3)
        original = tiles[tile] if position % 3 != 1 else tiles[1]
        assert abs(shown.mean() - original.mean()) < 2


@pytest.fixture(scope="module")
def atlas(tmp_path_factory) -> Root:
    options = {"layers": SMALL_LAYERS, "methods": ("vital",), "seeds": 1, "publish_examples": "none"}
    return build_synthetic_atlas(str(tmp_path_factory.mktemp("neighbors")), neighbors=True, **options)


def test_an_atlas_with_neighbors_and_a_map_is_sound(atlas):
    assert validate(atlas) == []
    note = atlas.read_json("atlas.json")["neighbors"]
    places = read_rows(atlas, "map.parquet")
    num_dead = sum(status_of(unit) == "dead" for _, count in SMALL_LAYERS.values() for unit in range(count))
    assert note["map"]["num_neurons"] == len(places) == 44 - num_dead
    rows = read_rows(atlas, neighbors_path("conv_stem"))
    assert [row["unit"] for row in rows] == [unit for unit in range(12) if status_of(unit) != "dead"]
    assert {unit % 5 for unit in rows[0]["neighbor_units"]} == {0}
    assert len({*rows[0]["neighbor_layers"]}) == 3  # across layers


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda row: row | {"neighbor_units": [*row["neighbor_units"][:-1], 999]}, "other neurons of the atlas"),
        (lambda row: row | {"cosine_similarities": row["cosine_similarities"][::-1]}, "must fall"),
        (lambda row: row | {"neighbor_layers": row["neighbor_layers"][1:]}, "different lengths"),
        (lambda row: row | {"unit": 4000}, "not in the layer's table"),
    ],
)
def test_neighbors_that_cannot_be_are_found(atlas, change, words):
    rows = read_rows(atlas, neighbors_path("conv_stem"))
    neurons = frozenset((layer, unit) for layer in ("conv_stem", "blocks.2.1", "classifier") for unit in range(20))
    assert list(neighbor_problems(rows, units=range(12), neurons=neurons, layer="conv_stem")) == []
    found = list(neighbor_problems([change(rows[0])], units=range(12), neurons=neurons, layer="conv_stem"))
    assert any(words in problem for problem in found)


def test_places_that_cannot_be_are_found():
    neurons = frozenset(("a", unit) for unit in range(3))
    rows = [{"layer": "a", "unit": unit, "x": unit, "y": 0} for unit in range(3)]
    assert list(map_problems(rows, neurons)) == []
    assert "Morton" in next(map_problems(rows[::-1], neurons))
    assert "two places" in next(map_problems([rows[0], rows[0]], neurons))
    assert "no neuron" in next(map_problems([rows[0] | {"unit": 9}], neurons))
    assert "from 0 to" in next(map_problems([rows[0] | {"x": MAP_SIDE}], neurons))


def test_a_thumbnail_of_another_neuron_is_noticed(tmp_path):
    root = build_synthetic_atlas(str(tmp_path), neighbors=True, layers={"conv_stem": (16, 12)})
    sheet = decode_webp(root.read_bytes("map/0000.webp")).copy()
    sheet[:64, :64], sheet[:64, 64:128] = sheet[:64, 64:128].copy(), sheet[:64, :64].copy()
    data = encode_webp(sheet)
    root.write_bytes("map/0000.webp", data)
    atlas = root.read_json("atlas.json")
    atlas["files"] = [
        file_entry("map/0000.webp", data) if entry["path"] == "map/0000.webp" else entry for entry in atlas["files"]
    ]
    root.write_json("atlas.json", atlas | {"build_id": build_id(atlas["files"])})
    faults = [fault for fault in validate(root) if fault.path.startswith("map")]
    assert len(faults) == 2
    assert all("does not show" in fault.message for fault in faults)


def test_an_atlas_built_again_without_neighbors_keeps_none_of_them(tmp_path):
    root = build_synthetic_atlas(str(tmp_path), neighbors=True, layers={"conv_stem": (16, 12)})
    write_table(root, "neighbors/gone.parquet", {"unit": [1]}, {"unit": "int32"})
    build(root, layers={"conv_stem": (16, 12)})
    assert not root.exists("map.parquet")
    assert root.list("neighbors") == root.list("map") == []
    assert validate(root) == []
