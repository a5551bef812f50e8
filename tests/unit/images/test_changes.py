"""Changes of trees: diff and apply are inverse, layers behave as when unpacked, nothing leaves the root."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from hotbed_images.changes import EMPTY_MANIFEST, Change, apply, diff
from hotbed_images.manifest import DIRECTORY, FILE, HARDLINK, SYMLINK, Entry, Manifest
from hotbed_proto.errors import InvalidError

from .test_manifest import a_file, trees


@settings(max_examples=300, deadline=None)
@given(trees(), trees())
def test_applying_a_difference_gives_the_other_tree(one: Manifest, other: Manifest) -> None:
    assert apply(one, diff(one, other)) == other
    assert diff(one, one) == Change()
    assert Manifest.build(apply(one, diff(one, other)).entries) == other


def _base() -> Manifest:
    return Manifest.build(
        [
            Entry(b"usr", DIRECTORY, 0o755),
            Entry(b"usr/lib", DIRECTORY, 0o755),
            a_file(b"usr/lib/libc.so"),
            Entry(b"usr/lib/libc.so.6", HARDLINK, target=b"usr/lib/libc.so"),
            Entry(b"lib", SYMLINK, target=b"usr/lib"),
            Entry(b"up", SYMLINK, target=b"/../../usr/../usr/lib"),
            Entry(b"loop", SYMLINK, target=b"loop"),
            a_file(b"plain"),
        ]
    )


def _paths(tree: Manifest) -> set[bytes]:
    return {entry.path for entry in tree}


def test_parents_that_are_symlinks_are_followed_inside_the_root() -> None:
    tree = apply(_base(), Change((a_file(b"lib/a"), a_file(b"up/b"), a_file(b"new/deep/c"))))
    assert {b"usr/lib/a", b"usr/lib/b", b"new", b"new/deep", b"new/deep/c"} <= _paths(tree)
    assert tree.by_path[b"lib"].kind == SYMLINK


def test_the_last_name_of_a_path_is_replaced_not_followed() -> None:
    tree = apply(_base(), Change((a_file(b"lib"),)))
    assert tree.by_path[b"lib"].kind == FILE
    assert b"usr/lib/libc.so" in _paths(tree)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (a_file(b"loop/x"), "circle"),
        (a_file(b"plain/x"), "not a folder"),
        (Entry(b"h", HARDLINK, target=b"gone"), "hard link to 'gone'"),
        (Entry(b"h", HARDLINK, target=b"usr"), "hard link to 'usr'"),
        (Entry(b"dev", SYMLINK, target=b"/etc"), "must be folders"),
        (Entry(b"proc", SYMLINK, target=b"/"), "must be folders"),
        (a_file(b"sys"), "must be folders"),
        (a_file(b""), "root"),
    ],
)
def test_what_cannot_be_applied_is_refused_by_name(entry: Entry, why: str) -> None:
    with pytest.raises(InvalidError, match=why):
        apply(_base(), Change((entry,)))


def test_dev_cannot_be_swapped_through_a_link_to_the_root() -> None:
    self_link = Entry(b"usr/root", SYMLINK, target=b"/")
    with pytest.raises(InvalidError, match="refused the entry 'dev'"):
        apply(_base(), Change((self_link, Entry(b"usr/root/dev", SYMLINK, target=b"/proc"))))


def test_removing_one_name_of_a_hard_link_keeps_the_other_as_a_file() -> None:
    tree = apply(_base(), Change(removed=(b"usr/lib/libc.so",)))
    survivor = tree.by_path[b"usr/lib/libc.so.6"]
    assert (survivor.kind, survivor.size) == (FILE, 5)


def test_a_link_may_lead_to_a_file_of_the_base_and_the_last_of_equal_paths_counts() -> None:
    tree = apply(_base(), Change((Entry(b"h", HARDLINK, target=b"lib/libc.so"), a_file(b"plain", 9), a_file(b"plain", 7))))
    assert tree.get(b"h") == tree.get(b"usr/lib/libc.so")
    assert tree.by_path[b"plain"].size == 7


def test_removals_and_opaque_folders_come_before_entries_whatever_the_order_in_the_layer() -> None:
    tree = apply(_base(), Change((a_file(b"usr/lib/new"),), removed=(b"lib/libc.so",), opaque=(b"usr",)))
    assert _paths(tree) == {b"", b"usr", b"usr/lib", b"usr/lib/new", b"lib", b"up", b"loop", b"plain"}
    with pytest.raises(InvalidError, match="root cannot be removed"):
        apply(_base(), Change(removed=(b"",)))


def test_a_file_over_a_folder_takes_its_content_away_and_a_folder_over_a_folder_keeps_it() -> None:
    assert _paths(apply(_base(), Change((a_file(b"usr"),)))) == {b"", b"usr", b"lib", b"up", b"loop", b"plain"}
    kept = apply(_base(), Change((Entry(b"usr", DIRECTORY, 0o700),)))
    assert kept.by_path[b"usr"].mode == 0o700
    assert b"usr/lib/libc.so" in _paths(kept)


def test_grafts_and_stubs_take_content_from_the_base() -> None:
    change = Change(
        (Entry(b"new", DIRECTORY), Entry(b"new/moved", DIRECTORY, 0o711), Entry(b"new/moved/libc.so", FILE, 0o600)),
        removed=(b"usr/lib", b"new/moved/libc.so.6"),
        grafts=((b"new/moved", b"usr/lib"),),
        stubs=((b"new/moved/libc.so", b"usr/lib/libc.so"),),
    )
    tree = apply(_base(), change)
    found = tree.by_path[b"new/moved/libc.so"]
    assert (found.mode, found.digest) == (0o600, _base().by_path[b"usr/lib/libc.so"].digest)
    assert tree.by_path[b"new/moved"].mode == 0o711
    assert b"usr/lib" not in _paths(tree) and b"new/moved/libc.so.6" not in _paths(tree)
    with pytest.raises(InvalidError, match="no folder of the base"):
        apply(_base(), Change(grafts=((b"a", b"plain"),)))
    with pytest.raises(InvalidError, match="no file"):
        apply(_base(), Change((Entry(b"a", FILE),), stubs=((b"a", b"usr"),)))


def test_the_number_of_entries_is_bounded() -> None:
    with pytest.raises(InvalidError, match="more than 3 entries"):
        apply(EMPTY_MANIFEST, Change((a_file(b"a/b/c/d"),)), entries_max=3)
