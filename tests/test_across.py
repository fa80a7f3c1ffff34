"""Features across dictionaries: splitting, the atlas and the MCS table, on dictionaries whose answer is known."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from feature_worlds import D_IN, SITE, TableModel, grid, token_store, whole_number_dictionary
from torch import Tensor

from monosemy.analysis import atlas_pairs, coactivation
from monosemy.analysis.atlas import Atlas, atlas
from monosemy.analysis.atlas_rules import SUMS_UP
from monosemy.analysis.coactivation import AbsorptionCounts, PairSums, pearson
from monosemy.analysis.compared import compared
from monosemy.analysis.index import features
from monosemy.analysis.lab import Batch, Lab
from monosemy.analysis.splitting import SPLIT, splitting_tree
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.metrics import recovery
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import UsageError

D = 40


def of_directions(W_ND: Tensor, bias: float = 0.0) -> Dictionary:
    return ReluDictionary({"W_enc": W_ND, "b_enc": torch.full((len(W_ND),), bias), "W_dec": W_ND.clone()})


def axes(*coordinates: int) -> Tensor:
    return torch.eye(D)[list(coordinates)]


def mixed(*coordinates: int) -> Tensor:
    """A unit direction that holds these coordinates in equal parts."""
    return torch.nn.functional.normalize(axes(*coordinates).sum(dim=0), dim=0)


def random_directions(count: int, seed: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(count, D, generator=torch.Generator().manual_seed(seed)), dim=1)


# ---- splitting --------------------------------------------------------------------------------------------------


def hierarchy() -> list[Dictionary]:
    """Three widths: a kept, a split and a lost feature; then the first of the split's children splits again."""
    first = torch.stack([mixed(0), mixed(1, 2, 3), mixed(9)])
    second = torch.stack([mixed(2, 3), mixed(0), mixed(1), mixed(20)])
    third = torch.stack([mixed(30), mixed(0), mixed(2), mixed(1), mixed(3)])
    return [of_directions(W_ND) for W_ND in (third, first, second)]  # the order given does not matter


def test_a_hierarchy_split_by_hand_is_found() -> None:
    found = splitting_tree(hierarchy())
    assert [len(level.parent) for level in found.levels] == [3, 4, 5]
    assert found.levels[1].parent.tolist() == [1, 0, 1, -1]
    assert found.levels[2].parent.tolist() == [-1, 1, 0, 2, 0]
    assert found.children(0, 1) == [0, 2]  # nearest first: cosines √⅔ and √⅓
    assert [found.fate(0, feature) for feature in range(3)] == ["kept", "split", "lost"]
    assert [found.fate(1, feature) for feature in range(4)] == ["split", "kept", "kept", "lost"]
    assert found.fate(2, 0) is None
    assert found.fates()[0] == {"kept": 1, "changed": 0, "split": 1, "lost": 1, "new": 1}
    assert found.ancestors(2, 4) == [0, 1]
    assert found.ancestors(2, 0) == []
    tree = found.tree(1)
    assert (tree["fate"], tree["cosine"]) == ("split", None)
    assert [branch["feature"] for branch in tree["children"]] == [0, 2]
    assert [leaf["feature"] for leaf in tree["children"][0]["children"]] == [2, 4]
    assert tree["children"][0]["cosine"] == pytest.approx((2 / 3) ** 0.5)


def test_one_child_that_moved_has_changed() -> None:
    moved = of_directions(torch.stack([mixed(0, 1), mixed(5)]))
    found = splitting_tree([of_directions(axes(0)), moved])
    assert found.fate(0, 0) == "changed"
    assert found.fates() == [{"kept": 0, "changed": 1, "split": 0, "lost": 0, "new": 1}]


def test_splitting_equals_brute_force() -> None:
    small, large = (
        random_directions(30, 1),
        torch.cat([random_directions(30, 1) + 0.12 * random_directions(30, 2) * D**0.5] * 3),
    )
    found = splitting_tree([of_directions(small), of_directions(large)], threshold=0.6)
    cosines = torch.nn.functional.normalize(large, dim=1) @ small.T
    for child in range(90):
        expected = int(cosines[child].argmax()) if float(cosines[child].max()) >= 0.6 else -1
        assert int(found.levels[1].parent[child]) == expected
    for feature in range(30):
        children = [child for child in range(90) if int(found.levels[1].parent[child]) == feature]
        assert sorted(found.children(0, feature)) == children
    assert sum(len(found.children(0, feature)) for feature in range(30)) > 60


def test_a_grid_gives_one_member_a_width(tmp_path: Path) -> None:
    place = grid(tmp_path / "grid", [*hierarchy(), of_directions(random_directions(4, 3))])
    found = splitting_tree(place)
    assert [level.label.split()[1] for level in found.levels] == ["1", "2", "0"]
    assert splitting_tree(place, [1, 3]).levels[1].label.startswith("member 3")
    table = found.table()
    assert len(table.rows) == 12
    assert table.rows[3][:4] == [found.levels[1].label, 1, 0, 1]
    assert {chart.name for chart in found.charts()} == {"fates", "cosines"}
    names = {path.name for path in found.save(tmp_path / "saved").iterdir()}
    assert names == {"splitting.json", "splitting.csv", "splitting-fates.svg", "splitting-cosines.svg"}


def test_splitting_refuses_what_it_cannot_order() -> None:
    one = of_directions(axes(0, 1))
    with pytest.raises(UsageError, match="two or more, each of another width"):
        splitting_tree([one, of_directions(axes(2, 3))])
    with pytest.raises(UsageError, match="two or more"):
        splitting_tree([one])
    with pytest.raises(UsageError, match="`threshold`"):
        splitting_tree([one, of_directions(axes(1))], threshold=0)
    found = splitting_tree([one, of_directions(axes(1))])
    for feature, level in ((2, 1), (-1, 0), (0, 5)):
        with pytest.raises(UsageError, match="must be from 0"):
            found.tree(feature, level)


# ---- the atlas --------------------------------------------------------------------------------------------------


def world(seed: int = 0, rows: int = 4000) -> Tensor:
    """Coordinates that fire alone, each on a tenth of the rows; 1 only where 0 does, on a third of those."""
    generator = torch.Generator().manual_seed(seed)
    x_XD = torch.rand(rows, D, generator=generator) + 0.5
    x_XD *= torch.rand(rows, D, generator=generator) < 0.1
    x_XD[:, 1] = (torch.rand(rows, generator=generator) < 1 / 3) * (x_XD[:, 0] > 0)
    return x_XD


def test_shuffled_copies_across_seeds_are_universal_and_random_ones_orphans() -> None:
    shared_ND = axes(*range(10))
    orders = [torch.randperm(10, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    sides = [
        of_directions(torch.cat([shared_ND[order], random_directions(4, 10 + n)])) for n, order in enumerate(orders)
    ]
    for rows in (None, world()):
        found = atlas(sides, rows=rows)
        assert found.tags == ((("universal",) * 10 + ("orphan",) * 4),) * 3
        for feature in range(10):
            cluster = int(found.clusters[0][feature])
            axis = int(orders[0][feature])
            assert found.members(cluster) == [(n, int((order == axis).nonzero())) for n, order in enumerate(orders)]
        assert len(found.twins) == 30
        assert {None if rows is None else 1.0} == {
            each.correlation if each.correlation is None else round(each.correlation, 6) for each in found.twins
        }
    told = {"universal": 10, "shared": 0, "split": None, "absorbed": 0, "orphan": 4, "dead": 0}
    assert found.counts()[0] == told  # nothing splits among dictionaries of one width
    assert atlas(sides).counts()[0] == told | {"absorbed": None, "dead": None}


def test_a_feature_of_two_of_three_dictionaries_is_shared() -> None:
    sides = [of_directions(axes(0, 1)), of_directions(axes(1, 0)), of_directions(axes(1, 7))]
    assert atlas(sides).tags == (("shared", "universal"), ("universal", "shared"), ("universal", "orphan"))


def test_a_split_whose_codes_sum_up_is_found_and_one_whose_do_not_is_not() -> None:
    """Feature 0 of the small one is the sum of two axes; feature 1 only lies between two that fire apart from it."""
    small = of_directions(torch.stack([mixed(2, 3), mixed(4, 5), mixed(8)]))
    small.tensors["W_enc"] = torch.stack([mixed(2, 3), mixed(12), mixed(8)])
    large = of_directions(torch.stack([axes(2)[0], axes(5)[0], axes(3)[0], axes(4)[0], axes(8)[0], axes(20)[0]]))
    found = atlas([large, small], rows=world())
    (split,) = found.splits
    assert (split.dictionary, split.feature, split.into) == (1, 0, 0)
    assert split.children == (0, 2)
    assert split.cosines == pytest.approx([0.5**0.5] * 2)
    codes_XN = torch.stack([large.encode(world())[:, [0, 2]].sum(dim=1), small.encode(world())[:, 0]])
    assert split.correlation == pytest.approx(float(torch.corrcoef(codes_XN)[0, 1]), abs=1e-5)
    assert split.correlation is not None
    assert split.correlation > SUMS_UP
    assert found.tags == (
        ("split", "orphan", "split", "orphan", "universal", "orphan"),
        ("split", "orphan", "universal"),
    )
    by_cosines = atlas([large, small])
    assert [each.feature for each in by_cosines.splits] == [0, 1]
    assert by_cosines.splits[0].correlation is None


def absorbing() -> Dictionary:
    """Feature 0 is coordinate 0, but silent where 1 fires; feature 1 is both coordinates, where 1 fires."""
    W_ND = torch.cat([axes(0), mixed(0, 1)[None], axes(5, 6)])
    enc_ND = torch.cat([axes(0) - 10 * axes(1), axes(1), axes(5, 6)])
    return ReluDictionary({"W_enc": enc_ND, "b_enc": torch.zeros(4), "W_dec": W_ND})


def test_an_absorbed_feature_is_found() -> None:
    """In the other dictionary the general feature fires wherever its coordinate does."""
    plain = of_directions(axes(6, 0, 1, 5))
    x_XD = world()
    found = atlas([plain, absorbing()], rows=x_XD)
    (each,) = found.absorptions
    assert (each.dictionary, each.feature, each.twin_dictionary, each.twin, each.absorber) == (1, 0, 0, 1, 1)
    general_X, specific_X = x_XD[:, 0] > 0, x_XD[:, 1] > 0
    assert each.rate == pytest.approx(float((general_X & specific_X).sum() / general_X.sum()))
    assert each.cosine == pytest.approx(0.5**0.5)
    assert found.tags == (
        ("universal", "universal", "orphan", "universal"),
        ("absorbed", "orphan", "universal", "universal"),
    )
    assert atlas([absorbing(), plain], rows=x_XD).absorptions[0].dictionary == 0  # either way round
    assert atlas([plain, absorbing()]).absorptions == ()  # directions alone do not show it


def test_what_only_resembles_absorption_is_not() -> None:
    plain, x_XD = of_directions(axes(6, 0, 1, 5)), world()
    elsewhere = absorbing()  # its specific feature fires on rows of its own as well
    elsewhere.tensors["W_enc"] = torch.cat([axes(0) - 10 * axes(1), axes(1) + axes(9), axes(5, 6)])
    both = absorbing()  # general and specific fire together
    both.tensors["W_enc"] = torch.cat([axes(0), axes(1), axes(5, 6)])
    apart = absorbing()  # the specific feature holds nothing of the general one's direction
    apart.tensors["W_dec"] = torch.cat([axes(0), axes(1), axes(5, 6)])
    asleep = absorbing()  # silent on most of its twin's rows, whatever else fires
    asleep.tensors["W_enc"] = torch.cat([axes(0) - 10 * axes(1), axes(1), axes(5, 6)])
    asleep.tensors["b_enc"] = torch.tensor([-1.4, 0, 0, 0])
    for other in (elsewhere, both, apart, asleep):
        assert atlas([plain, other], rows=x_XD).absorptions == ()


def test_dead_features_are_called_so() -> None:
    silent = of_directions(axes(0, 1))
    silent.tensors["b_enc"][1] = -100
    found = atlas([of_directions(axes(1, 0)), silent], rows=world())
    assert found.tags == (("universal", "universal"), ("universal", "dead"))
    assert {each.features: each.correlation is None for each in found.twins} == {(0, 1): True, (1, 0): False}


def test_the_dead_are_those_of_the_indexes_where_there_are_some(tmp_path: Path) -> None:
    """Three dictionaries of which two are indexed: what was not looked for is None, not "no"."""
    store, model = token_store(tmp_path, [60, 40, 80, 7], context=16), cast(LanguageModel, TableModel())
    sides = [whole_number_dictionary(8, seed) for seed in (0, 1, 2)]  # feature 0 never fires
    path = grid(tmp_path / "grid", sides)
    made = [features(path, member=member, model=model, tokens=store, out=tmp_path / f"f{member}") for member in (0, 2)]
    indexes = [made[0], None, tmp_path / "f2"]
    found = atlas(path, indexes=indexes)
    for number, own in ((0, made[0]), (2, made[1])):
        dead = [row["id"] for row in own.table() if row["dead"]]
        assert 0 in dead
        assert [feature for feature, tag in enumerate(found.tags[number]) if tag == "dead"] == dead
    assert [row["dead"] for row in found.counts()] == [len([t for t in found.tags[0] if t == "dead"]), None,
                                                       len([t for t in found.tags[2] if t == "dead"])]  # fmt: skip
    table = found.table()
    assert table.columns[-3:] == ("split", "absorbed", "dead")
    told = {(row[1], row[2]): row[-3:] for row in table.rows}
    assert told[0, 0] == [None, None, True]
    assert told[0, 1] == [None, None, False]
    assert told[1, 0] == [None, None, None]
    x_XD = torch.ones(3, D_IN) * 1000  # rows on which some fire that do not in the index, and the other way round
    both = atlas(path, rows=x_XD, indexes=indexes)
    for number, (side, index) in enumerate(zip(sides, indexes, strict=True)):
        fires = (side.encode(x_XD) != 0).any(dim=0)
        silent = ~fires if index is None else ~fires & torch.tensor([tag == "dead" for tag in found.tags[number]])
        assert [tag == "dead" for tag in both.tags[number]] == silent.tolist()
        assert both.counts()[number]["dead"] == int(silent.sum())
    with pytest.raises(UsageError, match="`indexes` are 2 for 3 dictionaries"):
        atlas(path, indexes=made)
    with pytest.raises(UsageError, match="an index of 8 features"):
        atlas([whole_number_dictionary(5), sides[1]], indexes=[made[0], None])


def near(angle: float, of: int = 0, towards: int = 1) -> Tensor:
    """A unit direction at this angle from one axis towards another."""
    turn = torch.tensor(angle)
    return torch.cos(turn) * axes(of)[0] + torch.sin(turn) * axes(towards)[0]


def test_between_copies_their_codes_decide() -> None:
    """Two copies a side, crosswise nearest by direction; what they fire on pairs them the other way."""
    one = of_directions(torch.stack([near(0.0), near(0.05), axes(7)[0]]))
    other = of_directions(torch.stack([near(0.049), near(0.001), axes(7)[0]]))
    one.tensors["W_enc"], other.tensors["W_enc"] = axes(3, 4, 7), axes(3, 4, 7)
    by_direction = {each.features for each in atlas([one, other]).twins}
    assert by_direction == {(0, 1), (1, 0), (2, 2)}
    found = atlas([one, other], rows=world())
    assert {each.features: round(cast(float, each.correlation), 4) for each in found.twins} == {
        (0, 0): 1, (1, 1): 1, (2, 2): 1
    }  # fmt: skip
    assert [cluster.tolist() for cluster in found.clusters] == [[0, 1, 2], [0, 1, 2]]
    other.tensors["W_dec"][0] = near(0.3)  # fires as feature 0, and is no copy of it: further than TIE
    apart = {each.features for each in atlas([one, other], rows=world(), threshold=0.9).twins}
    assert apart == {(1, 1), (2, 2)}


def test_of_links_that_are_as_near_those_whose_codes_agree_are_joined_first() -> None:
    """a0 – b – c – a1 at angles that hardly differ: a cluster has room for one of a's."""
    a = of_directions(torch.stack([near(0.0), near(0.36)]))
    b, c = of_directions(near(0.12)[None]), of_directions(near(0.2399)[None])
    a.tensors["W_enc"], b.tensors["W_enc"], c.tensors["W_enc"] = axes(3, 4), axes(4), axes(4)
    plain = [cluster.tolist() for cluster in atlas([a, b, c]).clusters]
    assert plain == [[0, -1], [0], [0]]
    found = atlas([a, b, c], rows=world())
    assert [cluster.tolist() for cluster in found.clusters] == [[-1, 0], [0], [0]]
    assert found.tags == (("shared", "shared"), ("universal",), ("universal",))  # a0 has a twin, in no cluster with it


def test_links_and_clusters_equal_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noisy copies in blocks of odd sizes: links by all cosines, clusters without two features of one dictionary."""
    base_ND = random_directions(25, 0)
    generator = torch.Generator().manual_seed(3)
    orders = [torch.randperm(25, generator=generator) for _ in range(4)]
    sides = [of_directions(base_ND[order] + 0.04 * torch.randn(25, D, generator=generator)) for order in orders]
    monkeypatch.setattr(recovery, "BLOCK", 7)
    monkeypatch.setattr(coactivation, "PAIRS_AT_ONCE", 5)
    x_XD = world()[:1500]
    found = atlas(sides, rows=x_XD, threshold=0.93)
    links = {(each.dictionaries, each.features): each for each in found.twins}
    expected = {}
    for a, b in itertools.combinations(range(4), 2):
        unit = [torch.nn.functional.normalize(sides[n].W_dec_ND, dim=1) for n in (a, b)]
        cosines = unit[0] @ unit[1].T
        for f, g in itertools.product(range(25), range(25)):
            if cosines[f, g] >= 0.93 and cosines[f].argmax() == g and cosines[:, g].argmax() == f:
                codes = torch.stack([sides[a].encode(x_XD)[:, f], sides[b].encode(x_XD)[:, g]]).double()
                expected[((a, b), (f, g))] = (float(cosines[f, g]), float(torch.corrcoef(codes)[0, 1]))
    assert links.keys() == expected.keys()
    assert 20 < len(links) < 6 * 25
    for key, (cosine, correlation) in expected.items():
        assert links[key].cosine == pytest.approx(cosine, abs=1e-6)
        assert links[key].correlation == pytest.approx(correlation, abs=1e-4)
    assert len(found.cosine_C) == int(max(of_N.max() for of_N in found.clusters)) + 1
    chained = 0
    for cluster, least in enumerate(found.cosine_C.tolist()):
        ends = found.members(cluster)
        numbers = [number for number, _ in ends]
        assert len(numbers) == len(set(numbers)) > 1
        pairs = list(itertools.combinations([sides[number].W_dec_ND[feature] for number, feature in ends], 2))
        assert least == pytest.approx(min(float(torch.cosine_similarity(*pair, dim=0)) for pair in pairs), abs=1e-6)
        chained += least < 0.93
    assert chained > 3
    others = [[sum((n, f) in zip(*key, strict=True) for key in expected) for f in range(25)] for n in range(4)]
    named = {0: "orphan", 1: "shared", 2: "shared", 3: "universal"}
    assert found.tags == tuple(tuple(named[count] for count in row) for row in others)
    assert {tag for row in found.tags for tag in row} == set(named.values())
    assert found.n_rows == 1500


def test_a_cluster_never_takes_two_features_of_one_dictionary() -> None:
    """A chain a0 – b0 – c0 – a1 in which every link holds: the weakest one is left out."""
    angles = {"a": [0.0, 0.9], "b": [0.2], "c": [0.5]}
    sides = [
        of_directions(torch.stack([torch.cos(torch.tensor(t)) * axes(0)[0] + torch.sin(torch.tensor(t)) * axes(1)[0]
                                   for t in angles[name]]))
        for name in "abc"
    ]  # fmt: skip
    found = atlas(sides, threshold=0.9)
    assert [of_N.tolist() for of_N in found.clusters] == [[0, -1], [0], [0]]
    assert found.cosine_C.tolist() == pytest.approx([torch.cos(torch.tensor(0.5)).item()])  # a0 and c0 are no twins
    assert {(each.dictionaries, each.features) for each in found.twins} == {
        ((0, 1), (0, 0)), ((0, 2), (1, 0)), ((1, 2), (0, 0))
    }  # fmt: skip
    assert found.tags == (("shared", "shared"), ("universal",), ("universal",))  # neither of a's has a twin in both


def test_a_part_that_has_a_twin_stays_universal() -> None:
    """Of two copies the codes take one for the twin; the other is nearer by a hair, and has no twin but two parts."""
    small = of_directions(torch.stack([near(0.0), near(0.05)]))
    large = of_directions(torch.stack([near(0.02), near(-0.7, towards=2), axes(9)[0]]))
    small.tensors["W_enc"], large.tensors["W_enc"] = torch.stack([mixed(5, 3), axes(5)[0]]), axes(5, 3, 9)
    found = atlas([small, large], rows=world())
    assert [each.features for each in found.twins] == [(1, 0)]
    assert [(each.feature, each.children) for each in found.splits] == [(0, (0, 1))]
    assert found.tags == (("split", "universal"), ("universal", "split", "orphan"))


def test_rows_come_from_a_tensor_or_a_lab(tmp_path: Path) -> None:
    sides = [of_directions(axes(0, 1, 2)), of_directions(axes(2, 1, 0))]
    assert atlas(sides, rows=world(rows=300), limit=120).n_rows == 120
    pieces = torch.cat(list(coactivation.blocks_of(world(rows=300), 120, "x")))
    assert torch.equal(pieces, world(rows=300)[torch.arange(120) * 300 // 120])
    with pytest.raises(UsageError):
        atlas(sides, rows=torch.full((3, D), torch.nan))
    store = token_store(tmp_path, [30, 5, 9, 1, 14], context=12, packed=False)
    lab = Lab(cast(LanguageModel, TableModel()), whole_number_dictionary(4), SITE, store)
    batch = store.batch(torch.arange(store.n_rows))
    expected_XD = lab.x(Batch(batch.ids_BC, batch.mask_BC))[batch.mask_BC]
    assert torch.equal(torch.cat(list(coactivation.blocks_of(lab, 10**6, "x"))), expected_XD)
    assert len(torch.cat(list(coactivation.blocks_of(lab, 15, "x")))) <= 15


def test_the_atlas_refuses_and_saves(tmp_path: Path) -> None:
    sides = [of_directions(axes(0, 1)), of_directions(axes(1, 0, 5))]
    with pytest.raises(UsageError, match="two dictionaries or more"):
        atlas(sides[:1])
    with pytest.raises(UsageError, match="`threshold`"):
        atlas(sides, threshold=1.5)
    with pytest.raises(UsageError, match="`d_out`"):
        atlas([sides[0], ReluDictionary({"W_dec": torch.eye(3), "W_enc": torch.eye(3), "b_enc": torch.zeros(3)})])
    with pytest.raises(UsageError, match="at least one"):
        compared([])
    with pytest.raises(UsageError, match="`members` chooses from one grid"):
        compared(sides, [0])
    found: Atlas = atlas(grid(tmp_path / "grid", sides, SITE), rows=world())
    assert found.labels == ("member 0 (width 2, seed 0)", "member 1 (width 3, seed 1)")
    assert found.table().rows[4] == [found.labels[1], 1, 2, "orphan", None, False, False, False]
    data: dict[str, Any] = found.data()
    assert data["tags"][0] == ["universal", "universal"]
    assert {path.name for path in found.save(tmp_path / "saved").iterdir()} >= {"atlas.json", "atlas-twins.svg"}


# ---- sums -------------------------------------------------------------------------------------------------------


def test_pair_sums_equal_corrcoef_in_any_blocks() -> None:
    a_PX, b_PX = torch.randn(2, 5, 60, generator=torch.Generator().manual_seed(0))
    b_PX[1], b_PX[2], a_PX[3] = a_PX[1], -a_PX[2], 0
    sums = PairSums(5)
    for part in (slice(0, 13), slice(13, 60)):
        for pairs in (slice(0, 2), slice(2, 5)):
            sums.add(a_PX[pairs, part], b_PX[pairs, part], pairs)
    found = sums.correlation()
    for pair in (0, 1, 2, 4):
        expected = torch.corrcoef(torch.stack([a_PX[pair], b_PX[pair]]))[0, 1]
        assert float(found[pair]) == pytest.approx(float(expected), abs=1e-5)
    assert torch.isnan(found[3])
    assert pearson([1, 2], [1, 2]) is None
    assert pearson([1, 2, 3], [1, 1, 1]) is None
    assert pearson([1, 2, 3], [2, 4, 6]) == pytest.approx(1)


def test_absorption_counts_equal_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coactivation, "PAIRS_AT_ONCE", 2)
    generator = torch.Generator().manual_seed(0)
    own_NX, twins_LX = (torch.rand(rows, 50, generator=generator) < 0.45 for rows in (6, 4))
    f_P, g_P, h_PK = torch.tensor([0, 1, 2]), torch.tensor([3, 1, 0]), torch.tensor([[1, 2], [0, 5], [4, 3]])
    counts = AbsorptionCounts(f_P, g_P, h_PK)
    counts.add(own_NX[:, :20], twins_LX[:, :20])
    counts.add(own_NX[:, 20:], twins_LX[:, 20:])
    for p in range(3):
        f, g = own_NX[f_P[p]], twins_LX[g_P[p]]
        assert (int(counts.twin_P[p]), int(counts.missed_P[p])) == (int(g.sum()), int((g & ~f).sum()))
        for k in range(2):
            h = own_NX[h_PK[p, k]]
            expected = int((g & h).sum()), int((g & h & ~f).sum()), int(h.sum())
            assert (int(counts.both_PK[p, k]), int(counts.taken_PK[p, k]), int(counts.other_PK[p, k])) == expected


def test_candidates_are_the_nearest_but_for_the_feature_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "BLOCK", 4)
    twins_PD, own_ND = random_directions(5, 0), random_directions(19, 1)
    self_P = torch.tensor([0, 3, 18, 7, 4])
    at_PK, best_PK = atlas_pairs._near(twins_PD, own_ND, self_P, atlas_pairs.CANDIDATES)
    cosines = twins_PD @ own_ND.T
    cosines[torch.arange(5), self_P] = -2
    ordered = cosines.sort(dim=1, descending=True)
    assert torch.equal(at_PK, ordered.indices[:, : atlas_pairs.CANDIDATES])
    torch.testing.assert_close(best_PK, ordered.values[:, : atlas_pairs.CANDIDATES])


assert SPLIT < 0.5**0.5  # what the hierarchies above stand on
