"""Checkpoints come back bit for bit: every kind of leaf, folders, links, wrong shapes."""

import doctest
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.training.checkpoint import CheckpointError, CheckpointStore, files, store
from tests.training.checkpoint.cases import (
    assert_same,
    content,
    edit_record,
    environment,
    everything,
    is_orbax,
    newest,
    small,
)


class TestRoundtrip:
    def test_everything(self, tmp_path: Path) -> None:
        state = everything()
        with CheckpointStore(tmp_path) as store:
            store.save(12, state, {"epoch": 3})
            restored = store.restore(state)
        assert (restored.step, restored.record) == (12, {"epoch": 3})
        assert_same(restored.arrays, state)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(restored.arrays))
        assert os.listdir(tmp_path) == ["step_00000012"]

    def test_in_a_new_process_from_shapes_alone(self, tmp_path: Path) -> None:
        """Also: importing jaxrnn does not import Orbax, and a program that exits at once loses nothing."""
        code = """if True:
            import sys, jax, numpy as np
            from jaxrnn.training.checkpoint import CheckpointStore
            assert not [name for name in sys.modules if name.startswith("orbax")], "Orbax is imported early"
            shapes = {"kernel": jax.ShapeDtypeStruct((3, 5), "f4"), "bias": jax.ShapeDtypeStruct((4,), "f4")}
            restored = CheckpointStore(sys.argv[1]).restore(shapes)
            CheckpointStore(sys.argv[1]).save(9, restored.arrays, restored.record)
        """
        CheckpointStore(tmp_path).save(5, small(0.1), {"best": 0.1})
        subprocess.run([sys.executable, "-W", "error", "-c", code, tmp_path], env=environment(), check=True)
        restored = CheckpointStore(tmp_path).restore(jax.eval_shape(lambda: small(0.0)))
        assert (restored.step, restored.record) == (9, {"best": 0.1})
        assert_same(restored.arrays, small(0.1))

    @pytest.mark.parametrize("tree", [jnp.arange(3), {}, None, (), [None, {}], {"a": jnp.zeros((0,))}])
    def test_tree_of_one_leaf_or_none(self, tmp_path: Path, tree: Any) -> None:
        store = CheckpointStore(tmp_path)
        store.save(0, tree)
        assert_same(store.restore(tree).arrays, tree)

    def test_64_bit_numpy_leaves_keep_every_bit(self, tmp_path: Path) -> None:
        state = {"array": np.array([2**40 + 1, -3]), "scalar": np.int64(2**50 + 1), "pi": np.float64(np.pi)}
        store = CheckpointStore(tmp_path)
        store.save(0, state)
        restored = store.restore(state).arrays
        assert {name: (str(a.dtype), a.tobytes()) for name, a in restored.items()} == {
            name: (str(a.dtype), a.tobytes()) for name, a in state.items()
        }

    def test_sharding_follows_abstract_and_donated_arrays_serve_as_abstract(self, tmp_path: Path) -> None:
        mesh = jax.sharding.Mesh(np.array(jax.devices("cpu")[:1]), ("data",))
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        state = {
            "placed": jax.device_put(jnp.arange(4.0), sharding),
            "free": jnp.ones(2),
            "key": jax.random.key(1),
        }
        expected = {name: content(leaf) for name, leaf in state.items()}
        store = CheckpointStore(tmp_path)
        store.save(0, state)
        for leaf in state.values():
            leaf.delete()
        restored = store.restore(state).arrays
        assert {name: content(leaf) for name, leaf in restored.items()} == expected
        assert restored["placed"].sharding == sharding
        assert not restored["free"].committed

    @pytest.mark.parametrize(
        "name", ["a[b]", "a*b?", "a\\b", "gs:", "%41 ü 日本\n", b"not utf-8 \xff", "~", "..."], ids=str
    )
    def test_folder_of_any_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | bytes) -> None:
        """And relative, which stays the same folder when the program goes elsewhere."""
        monkeypatch.chdir(tmp_path)
        folder = os.fsdecode(name)
        store = CheckpointStore(f"{folder}/{folder}")
        monkeypatch.chdir("/")
        store.save(1, small(1))
        store.save(1, small(2))
        assert_same(store.restore(small(0)).arrays, small(2))
        assert os.listdir(tmp_path / folder / folder) == ["step_00000001.1"]

    def test_record_keeps_non_finite_floats_and_order(self, tmp_path: Path) -> None:
        record = {
            "z": float("nan"),
            "a": [float("inf"), -float("inf"), -0.0, 0.1, 2**70],
            "m": {"": None, "ü": True},
        }
        store = CheckpointStore(tmp_path)
        store.save(0, {}, record)
        assert repr(store.restore({}).record) == repr(record)

    def test_doctest(self) -> None:
        assert doctest.testmod(store) == (0, 4)

    def test_is_silent(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        caplog.set_level(logging.INFO, logger="absl")
        store = CheckpointStore(tmp_path)
        store.save(0, small(0))
        store.restore(small(0))
        assert [r for r in caplog.records if r.name == "absl"] == []
        assert logging.getLogger("absl").level == logging.INFO


class TestFolder:
    def test_keeps_the_newest(self, tmp_path: Path) -> None:
        store = CheckpointStore(tmp_path, keep=3)
        for step in (1, 5, 10**8, 20):
            store.save(step, small(step))
        assert store.steps() == [5, 20, 10**8]
        assert sorted(os.listdir(tmp_path)) == ["step_00000005", "step_00000020", "step_100000000"]
        assert store.restore(small(0)).step == 10**8
        assert_same(store.restore(small(0), step=5).arrays, small(5))

    def test_the_step_just_saved_stays_even_below_a_damaged_one(self, tmp_path: Path) -> None:
        store = CheckpointStore(tmp_path, keep=1)
        store.save(12, small(12))
        store.save(10, small(10))
        assert store.steps() == [10]

    def test_replaces_a_step(self, store: CheckpointStore) -> None:
        for value in (7, 8, 9):
            store.save(2, small(value), {"value": value})
        assert store.steps() == [1, 2]
        assert len(os.listdir(store.directory)) == 2
        restored = store.restore(small(0), step=2)
        assert restored.record == {"value": 9}
        assert_same(restored.arrays, small(9))

    def test_replacing_never_leaves_a_moment_without_the_step(
        self, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At each rename, before and after, a reader finds step 2, the old or the new one."""
        seen: list[Any] = []
        rename = os.rename

        def watched(source: Any, target: Any) -> None:
            if is_orbax(source):
                rename(source, target)
                return
            seen.append(store.restore(small(0), step=2).record["loss"])
            rename(source, target)
            seen.append(store.restore(small(0), step=2).record["loss"])

        monkeypatch.setattr(os, "rename", watched)
        store.save(2, small(3), {"loss": 0.3})
        assert seen == [0.2, 0.3, 0.3, 0.3]

    def test_a_named_step_is_exactly_the_one_saved_last(self, store: CheckpointStore) -> None:
        """A kill can leave the replaced folder of a step; it serves a fallback, but not a request for the step."""
        older = store.directory / "older"
        shutil.copytree(newest(store), older)
        store.save(2, small(3))
        older.rename(newest(store))
        assert store.steps() == [1, 2]
        assert_same(store.restore(small(0), step=2).arrays, small(3))
        (store.directory / "step_00000002.1" / "record.json").unlink()
        with pytest.raises(CheckpointError, match=r"step_00000002\.1 is incomplete"):
            store.restore(small(0), step=2)
        with pytest.warns(UserWarning, match=r"step_00000002\.1 is incomplete"):
            assert_same(store.restore(small(0)).arrays, small(2))

    @pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to name what is synced")
    def test_all_is_synced_before_it_counts(self, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """Files and folders before the rename that makes them a checkpoint, that rename before any deletion."""
        events: list[str] = []
        fsync, rename = os.fsync, os.rename

        def logged_fsync(descriptor: int) -> None:
            events.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            fsync(descriptor)

        def logged_rename(source: Any, target: Any) -> None:
            rename(source, target)
            if not is_orbax(source):
                events.append(f"rename {Path(target).name}")

        monkeypatch.setattr(os, "fsync", logged_fsync)
        monkeypatch.setattr(os, "rename", logged_rename)
        store.save(3, small(3))
        folder = store.directory / "step_00000003"
        at = events.index("rename step_00000003")
        before = {re.sub(r"(step_00000003)\.[0-9a-f]{8}\.tmp", r"\1", event) for event in events[:at]}
        assert before == {str(path) for path in [folder, *folder.rglob("*")]}
        assert events[at + 1 :] == [str(store.directory), "rename step_00000001.trash"]

    def test_leftovers_are_ignored_by_readers_and_deleted_by_the_next_save(self, store: CheckpointStore) -> None:
        shutil.copytree(newest(store), store.directory / "step_00000003.0a1b2c3d.tmp")
        shutil.copytree(newest(store), store.directory / "step_00000004.1.trash")
        (store.directory / "notes.tmp").write_text("not ours")
        before = sorted(os.listdir(store.directory))
        assert store.restore(small(0)).step == 2
        store.close()
        with CheckpointStore(store.directory) as writer:
            assert writer.steps() == [1, 2]
            assert sorted(os.listdir(store.directory)) == before
            writer.save(3, small(3))
        assert sorted(os.listdir(store.directory)) == ["notes.tmp", "step_00000002", "step_00000003"]

    def test_deleted_by_the_writer_while_being_read(
        self, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The reader takes the one saved meanwhile, without a warning of damage."""
        load = files.load

        def late(folder: Path, *args: Any) -> Any:
            if folder == newest(store):
                monkeypatch.setattr(files, "load", load)
                store.save(3, small(3))
                store.save(4, small(4))
            return load(folder, *args)

        monkeypatch.setattr(files, "load", late)
        assert store.restore(small(0)).step == 4

    def test_nothing_there(self, tmp_path: Path, store: CheckpointStore) -> None:
        with pytest.raises(CheckpointError, match="absent is not a folder"):
            CheckpointStore(tmp_path / "absent").restore(small(0))
        assert not (tmp_path / "absent").exists()
        (tmp_path / "file").write_text("")
        with pytest.raises(CheckpointError, match="file is not a folder"):
            CheckpointStore(tmp_path / "file")
        with pytest.raises(CheckpointError, match=r"no checkpoint in .*; the folder holds no checkpoints"):
            CheckpointStore(tmp_path).restore(small(0))
        with pytest.raises(CheckpointError, match=r"no checkpoint of step=5 in .*steps there are \[1, 2\]"):
            store.restore(small(0), step=5)

    def test_wrong_arguments(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="keep=0"):
            CheckpointStore(tmp_path, keep=0)
        store = CheckpointStore(tmp_path)
        with pytest.raises(ValueError, match="step=-1"):
            store.save(-1, {})
        for leaf in ("text", object(), np.array(["text"]), np.zeros(2, ">f4")):
            with pytest.raises(TypeError, match=r"leaf \['a'\]\[0\]"):
                store.save(0, {"a": [leaf]})
        store.close()
        with pytest.raises(ValueError, match="closed"):
            store.save(0, {})
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize(
        ("record", "where"),
        [
            ({"a": {"b": [1, (2, 3)]}}, r"record\['a'\]\['b'\]\[1\]"),
            ({"loss": np.float64(0.5)}, r"record\['loss'\]"),
            ({"loss": jnp.ones(())}, r"record\['loss'\]"),
            ({"a": {3: 1}}, r"record\['a'\] has the key 3"),
        ],
    )
    def test_record_must_be_plain_json(self, tmp_path: Path, record: dict, where: str) -> None:
        with pytest.raises(TypeError, match=where):
            CheckpointStore(tmp_path).save(0, {}, record)
        assert os.listdir(tmp_path) == []


class TestMismatch:
    """The code or its settings are wrong: an error that names the leaf, and never an older checkpoint."""

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"bias": jnp.zeros(5)}, r"leaf \['bias'\]: saved float32\[4\], asked for float32\[5\]"),
            (
                {"bias": jnp.zeros(4, jnp.bfloat16)},
                r"\['bias'\]: saved float32\[4\], asked for bfloat16\[4\]",
            ),
            ({"bias": jnp.zeros(4, int)}, r"\['bias'\]: saved float32\[4\], asked for int32\[4\]"),
            ({"bias": jax.random.key(0)}, r"\['bias'\]: saved float32\[4\], asked for key<fry>"),
            ({"bias": None}, r"leaf \['bias'\]: saved float32\[4\], asked for nothing"),
            ({"gain": jnp.zeros(3)}, r"leaf \['gain'\]: saved nothing, asked for float32\[3\]"),
        ],
    )
    def test_names_the_leaf(self, tmp_path: Path, change: dict, message: str) -> None:
        wanted = {**small(0), **change}
        store = CheckpointStore(tmp_path)
        store.save(1, wanted)
        store.save(2, small(2))
        for step in (None, 2):
            with pytest.raises(CheckpointError, match=message):
                store.restore(wanted, step=step)

    def test_key_of_another_kind(self, tmp_path: Path) -> None:
        store = CheckpointStore(tmp_path)
        store.save(0, jax.random.key(0))
        with pytest.raises(CheckpointError, match="saved key<fry>"):
            store.restore(jax.random.key(0, impl="rbg"))

    def test_newer_format(self, store: CheckpointStore) -> None:
        edit_record(newest(store), format=2)
        with pytest.raises(CheckpointError, match="has format 2"):
            store.restore(small(0))
