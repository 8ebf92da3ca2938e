"""The tree: the published vectors, and an independent slow tree written from the RFC's text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.trust.merkle import (
    MemoryNodes,
    append,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root,
    verify_consistency,
    verify_inclusion,
)
from app.trust.verify import Rejected
from tests.app.trust.evidence import mth, path, subproof, tree

LEAVES = [bytes.fromhex(x) for x in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657",
                                     "606162636465666768696a6b6c6d6e6f")]  # fmt: skip
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
CONSISTENCY = {
    (2, 5): ["5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
             "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"],
    (6, 7): ["0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
             "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
             "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"],
    (6, 8): ["0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
             "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
             "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"],
}  # fmt: skip


def test_the_roots_of_certificate_transparency() -> None:
    nodes = tree(LEAVES)
    assert [root(nodes, size).hex() for size in range(9)] == ROOTS


@pytest.mark.parametrize(("sizes", "proof"), CONSISTENCY.items())
def test_the_consistency_proofs_of_certificate_transparency(sizes: tuple[int, int], proof: list[str]) -> None:
    assert [step.hex() for step in consistency_proof(tree(LEAVES), *sizes)] == proof
    old, new = (bytes.fromhex(ROOTS[size]) for size in sizes)
    verify_consistency(sizes[0], old, sizes[1], new, [bytes.fromhex(step) for step in proof])


@given(st.integers(1, 70), st.data())
@settings(max_examples=60, deadline=None)
def test_proofs_are_those_of_the_rfcs_text(size: int, data: st.DataObject) -> None:
    leaves = [bytes([n]) * (n % 5) + b"%d" % n for n in range(size)]
    nodes, index, old = tree(leaves), data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    assert root(nodes, size) == mth(leaves)
    assert inclusion_proof(nodes, index, size) == path(index, leaves)
    assert consistency_proof(nodes, old, size) == subproof(old, leaves)
    verify_inclusion(index, size, leaf_hash(leaves[index]), path(index, leaves), mth(leaves))
    verify_consistency(old, mth(leaves[:old]), size, mth(leaves), subproof(old, leaves))


@given(st.lists(st.integers(0, 9), max_size=12))
@settings(max_examples=40, deadline=None)
def test_batches_give_the_tree_that_all_leaves_at_once_give(batches: list[int]) -> None:
    leaves = [b"%d" % n for n in range(sum(batches))]
    nodes, size = MemoryNodes(), 0
    for batch in batches:
        size = append(nodes, size, [leaf_hash(leaf) for leaf in leaves[size : size + batch]])
    assert size == len(leaves) and root(nodes, size) == mth(leaves)


@given(st.integers(2, 40), st.data())
@settings(max_examples=80, deadline=None)
def test_a_changed_proof_shows_nothing(size: int, data: st.DataObject) -> None:
    leaves = [b"%d" % n for n in range(size)]
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size - 1))
    for proof, check in (
        (path(index, leaves), lambda p: verify_inclusion(index, size, leaf_hash(leaves[index]), p, mth(leaves))),
        (subproof(old, leaves), lambda p: verify_consistency(old, mth(leaves[:old]), size, mth(leaves), p)),
    ):
        at = data.draw(st.integers(0, len(proof) - 1))
        wrong = bytes([proof[at][0] ^ 1]) + proof[at][1:]
        for changed in ([*proof[:at], wrong, *proof[at + 1 :]], proof[:-1], [*proof, proof[0]], []):
            with pytest.raises(Rejected):
                check(changed)
    with pytest.raises(Rejected):
        verify_inclusion((index + 1) % size, size, leaf_hash(leaves[index]), path(index, leaves), mth(leaves))
    with pytest.raises(Rejected):
        verify_consistency(old, mth([b"x", *leaves[1:old]]), size, mth(leaves), subproof(old, leaves))


def test_a_proof_reads_few_nodes_and_all_at_once() -> None:
    nodes = tree([b"%d" % n for n in range(1000)])
    calls: list[int] = []

    class Counting:
        def read(self, places: list[tuple[int, int]]) -> list[bytes]:
            calls.append(len(places))
            return nodes.read(places)

    inclusion_proof(Counting(), 997, 1000)
    consistency_proof(Counting(), 513, 1000)
    assert len(calls) == 2 and max(calls) <= 2 * 10


def test_a_node_is_never_written_again() -> None:
    nodes = tree([b"a"])
    with pytest.raises(ValueError, match="written already"):
        nodes.write(0, 0, [b"x" * 32])
    with pytest.raises(ValueError, match="no leaf"):
        inclusion_proof(nodes, 1, 1)
    with pytest.raises(ValueError, match="not within"):
        consistency_proof(nodes, 2, 1)
