"""Checkpoints come back bit for bit, or not at all: damage, kills, full disks, wrong shapes, links."""

import doctest
import errno
import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn.training import checkpoint_files, checkpoints
from jaxrnn.training.checkpoints import CheckpointError, CheckpointStore

KILLS = 5  # raise for a longer run: each costs about a second
BIT_FLIPS = 20  # each costs about 50 ms


class Carry(NamedTuple):
    c: jax.Array
    h: jax.Array | None


def small(value: float) -> dict[str, jax.Array]:
    return {"kernel": jnp.full((3, 5), value), "bias": jnp.arange(4.0) + value}


def everything() -> dict[str, Any]:
    """Each kind of leaf and container that a training state is made of."""
    params = {"cell": {"kernel": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)}, "none": None, "empty": {}}
    optimizer = optax.adam(1e-3)
    _, moments = optimizer.update(jax.tree.map(jnp.sin, params), optimizer.init(params))
    return {
        "params": params,
        "optimizer": moments,
        "carry": Carry(c=jnp.full((2, 2), 1.1, jnp.bfloat16), h=None),
        "key": jax.random.key(7),
        "keys": jax.random.split(jax.random.key(8, impl="rbg"), 3),
        "list": [jnp.array(True), jnp.arange(3), np.float32(0.1), np.arange(4, dtype=np.uint8), ()],
        "numbers": {"int": 3, "float": 0.1, "bool": True},
        "odd": jnp.array([jnp.nan, -jnp.nan, -0.0, jnp.inf, 1e-42]),
        "minus_zero": jnp.full((3,), -0.0),
        "no_elements": jnp.zeros((0, 3)),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "a/b.c ü\n'": {"": jnp.ones(1), ".": jnp.zeros(1)},
    }


def content(leaf: Any) -> tuple[str, tuple[int, ...], bytes]:
    """Dtype, shape and bytes; Python numbers as jit sees them."""
    array = leaf if isinstance(leaf, np.ndarray) else jnp.asarray(leaf)
    dtype, shape = str(array.dtype), array.shape
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return dtype, shape, np.asarray(array).tobytes()


def assert_same(tree: Any, other: Any) -> None:
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    assert [content(x) for x in jax.tree.leaves(tree)] == [content(x) for x in jax.tree.leaves(other)]


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def edit_record(folder: Path, **changes: Any) -> None:
    """What a forger can do: change the record and make its checksum fit."""
    path = folder / "record.json"
    forged = json.loads(path.read_text())["content"] | changes
    path.write_text(
        json.dumps({"sha256": checkpoint_files.sha256(json.dumps(forged).encode()), "content": forged})
    )


def is_orbax(path: Any) -> bool:
    """Whether a rename is one that Orbax does itself, in a thread of its own."""
    return "orbax" in str(path)


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """Steps 1 and 2 of `small(step)`."""
    store = CheckpointStore(tmp_path / "store", keep=2)
    for step in (1, 2):
        store.save(step, small(step), {"loss": step / 10})
    return store


def newest(store: CheckpointStore) -> Path:
    return store.directory / "step_00000002"


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
            from jaxrnn.training.checkpoints import CheckpointStore
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
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
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
        assert doctest.testmod(checkpoints) == (0, 4)

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
        load = checkpoint_files.load

        def late(folder: Path, *args: Any) -> Any:
            if folder == newest(store):
                monkeypatch.setattr(checkpoint_files, "load", load)
                store.save(3, small(3))
                store.save(4, small(4))
            return load(folder, *args)

        monkeypatch.setattr(checkpoint_files, "load", late)
        assert store.restore(small(0)).step == 4

    def test_nothing_there(self, tmp_path: Path, store: CheckpointStore) -> None:
        with pytest.raises(CheckpointError, match="absent is not a folder"):
            CheckpointStore(tmp_path / "absent").restore(small(0))
        assert not (tmp_path / "absent").exists()
        (tmp_path / "file").write_text("")
        with pytest.raises(CheckpointError, match="file is not a folder"):
            CheckpointStore(tmp_path / "file").restore(small(0))
        with pytest.raises(CheckpointError, match=r"no checkpoint in .*steps there are \[\]"):
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


class TestOneWriter:
    def test_a_second_writer_is_refused_until_the_first_is_gone(self, tmp_path: Path) -> None:
        first, second = CheckpointStore(tmp_path), CheckpointStore(tmp_path)
        first.claim()
        with pytest.raises(CheckpointError, match=r"another process writes checkpoints to .*: wait"):
            second.claim()
        with pytest.raises(CheckpointError, match=r"could not save step=1 .*another process writes"):
            second.save(1, small(1))
        first.save(1, small(1))
        assert second.restore(small(0)).step == 1  # reading needs no lock
        first.close()
        second.save(2, small(2))
        assert os.listdir(tmp_path) != []
        del second  # as when a program ends without close()
        CheckpointStore(tmp_path).save(3, small(3))

    def test_a_writer_that_was_killed_leaves_no_lock(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        with open(log, "wb") as file:
            writer = subprocess.Popen(
                [sys.executable, "-c", WRITER, str(tmp_path / "store")], env=environment(), stdout=file
            )
        try:
            while b"\n" not in log.read_bytes() and writer.poll() is None:
                time.sleep(0.01)
            with pytest.raises(CheckpointError, match="another process"):
                CheckpointStore(tmp_path / "store").claim()
        finally:
            writer.kill()
            writer.wait()
        CheckpointStore(tmp_path / "store").claim()

    def test_a_folder_deleted_under_the_writer_is_made_and_locked_anew(self, store: CheckpointStore) -> None:
        shutil.rmtree(store.directory)
        store.save(3, small(3))
        assert store.steps() == [3]
        with pytest.raises(CheckpointError, match="another process"):
            CheckpointStore(store.directory).claim()


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


def assert_falls_back(store: CheckpointStore, reason: str) -> None:
    with pytest.warns(UserWarning, match=reason):
        restored = store.restore(small(0))
    assert restored.step == 1
    assert_same(restored.arrays, small(1))
    with pytest.raises(CheckpointError, match=reason):
        store.restore(small(0), step=2)


class TestDamage:
    def test_flipped_bits(self, store: CheckpointStore, capfd: pytest.CaptureFixture[str]) -> None:
        """Wherever the bit is, the values are those of step 2 or those of step 1, bit for bit."""
        generator = random.Random(0)
        files = [path for path in files_of(newest(store)) if path.stat().st_size]
        older = 0
        for i in range(BIT_FLIPS):
            path = files[i % len(files)]
            intact = path.read_bytes()
            damaged = bytearray(intact)
            damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
            path.write_bytes(damaged)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                restored = store.restore(small(0))
            assert_same(restored.arrays, small(restored.step))
            assert restored.record == {"loss": restored.step / 10}
            assert [restored.step == 1] == [bool(caught)]
            assert all(str(path) in str(w.message) or "cannot be read" in str(w.message) for w in caught)
            older += restored.step == 1
            path.write_bytes(intact)
        # A flip in the white space or the exponent's letter of the record changes nothing.
        assert older >= BIT_FLIPS * 3 // 4
        assert store.restore(small(0)).step == 2
        assert capfd.readouterr().err == ""

    def test_every_file_deleted_emptied_or_cut(self, store: CheckpointStore) -> None:
        for path in files_of(newest(store)):
            intact = path.read_bytes()
            for change in ("delete", "empty", "cut"):
                if change == "delete":
                    path.unlink()
                elif not intact:
                    continue
                else:
                    path.write_bytes(intact[:-1] if change == "cut" else b"")
                with pytest.warns(UserWarning, match="step_00000002"):
                    restored = store.restore(small(0))
                assert_same(restored.arrays, small(1))
                path.write_bytes(intact)
        assert store.restore(small(0)).step == 2

    def test_folder_emptied(self, store: CheckpointStore) -> None:
        shutil.rmtree(newest(store))
        newest(store).mkdir()
        assert store.steps() == [1]
        assert_falls_back(store, "step_00000002 is incomplete")

    def test_folder_is_a_file(self, store: CheckpointStore) -> None:
        shutil.rmtree(newest(store))
        newest(store).write_text("")
        assert store.steps() == [1]
        assert_falls_back(store, "step_00000002")

    def test_folder_renamed(self, store: CheckpointStore) -> None:
        newest(store).rename(store.directory / "step_00000003")
        with pytest.warns(UserWarning, match="step_00000003 holds step 2: it was renamed"):
            assert store.restore(small(0)).step == 1

    def test_orbax_returns_other_numbers(self, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """The checksum of the leaves is over what was given to Orbax, and checked on what it gives back."""
        from orbax.checkpoint import v1 as ocp

        load = ocp.load

        def wrong(path: str, *args: Any) -> Any:
            tree = load(path, *args)
            if "step_00000002" in path:
                tree["leaf_00000"].view(np.uint32).reshape(-1)[0] ^= 1
            return tree

        monkeypatch.setattr(ocp, "load", wrong)
        assert_falls_back(store, r"leaf \['bias'\] is not what was saved")

    def test_a_damaged_checkpoint_does_not_push_out_a_good_one(self, tmp_path: Path) -> None:
        """A run that fell back goes on from an older step, and saves below the damaged one."""
        with CheckpointStore(tmp_path) as store:
            store.save(5, small(5))
            store.save(9, small(9))
        damaged = tmp_path / "step_00000009" / "record.json"
        whole = damaged.read_bytes()
        damaged.write_bytes(whole[:-9])
        with CheckpointStore(tmp_path) as store:
            with pytest.warns(UserWarning, match="restored the older step 5"):
                store.restore(small(0))
            for step, left in ((6, {5, 6, 9}), (7, {6, 7, 9}), (9, {7, 9}), (11, {9, 11})):
                store.save(step, small(step))
                assert set(store.steps()) == left
            assert_same(store.restore(small(0), step=9).arrays, small(9))

    def test_none_loads(self, store: CheckpointStore) -> None:
        (newest(store) / "record.json").unlink()
        (store.directory / "step_00000001" / "record.json").write_text("[]")
        with pytest.raises(
            CheckpointError, match=r"step_00000002 is incomplete(.|\n)*step_00000001 cannot be read"
        ):
            store.restore(small(0))


class TestForged:
    """A checkpoint from someone else reads nothing outside its folder."""

    def test_link_to_a_file(self, store: CheckpointStore, tmp_path: Path) -> None:
        for path in files_of(newest(store)):
            outside = tmp_path / "outside"
            outside.write_bytes(path.read_bytes())
            path.unlink()
            path.symlink_to(outside)
            assert_falls_back(store, f"{path.name} is a link")
            path.unlink()
            path.write_bytes(outside.read_bytes())

    def test_link_to_a_folder(self, store: CheckpointStore, tmp_path: Path) -> None:
        for name in ("arrays/state", "arrays", "."):
            path = newest(store) / name
            path.rename(tmp_path / "outside")
            path = Path(os.path.normpath(path))
            path.symlink_to(tmp_path / "outside")
            assert_falls_back(store, f"{path.name} is a link")
            path.unlink()
            (tmp_path / "outside").rename(path)

    def test_pipe(self, store: CheckpointStore) -> None:
        os.mkfifo(newest(store) / "pipe")
        assert_falls_back(store, "pipe is a link or special file")

    @pytest.mark.parametrize("name", ["../step_00000001/record.json", "/etc/hostname", "arrays/../record.json"])
    def test_path_out_of_the_folder(self, store: CheckpointStore, name: str) -> None:
        digest = checkpoint_files.sha256(Path(newest(store) / name).read_bytes()) if ".." in name else "0"
        edit_record(newest(store), files={name: digest})
        assert_falls_back(store, "is missing")

    @pytest.mark.parametrize(
        "changes", [{"leaves": 3}, {"leaves": {"['bias']": {}}}, {"files": None}, {"step": "2"}]
    )
    def test_record_of_other_types(self, store: CheckpointStore, changes: dict) -> None:
        edit_record(newest(store), **changes)
        assert_falls_back(store, "step_00000002")


class TestSaveFails:
    def assert_intact(self, store: CheckpointStore) -> None:
        assert sorted(os.listdir(store.directory)) == ["step_00000001", "step_00000002"]
        assert_same(store.restore(small(0)).arrays, small(2))

    def test_orbax_reports_a_full_disk(self, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
        from orbax.checkpoint import v1 as ocp

        texts = {
            "RESOURCE_EXHAUSTED: [os_error_code='122']": errno.EDQUOT,
            "RESOURCE_EXHAUSTED": errno.ENOSPC,
        }
        for text, number in texts.items():

            def full(path: str, tree: Any, text: str = text) -> None:
                Path(path).mkdir()
                raise ValueError(text)

            monkeypatch.setattr(ocp, "save", full)
            with pytest.raises(
                OSError, match=rf"could not save step=2 in .*store: {os.strerror(number)}; .*are intact"
            ) as error:
                store.save(2, small(3))
            assert error.value.errno == number
            self.assert_intact(store)

    def test_orbax_fails_otherwise(self, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
        from orbax.checkpoint import v1 as ocp

        def broken(path: str, tree: Any) -> None:
            raise RuntimeError("something else")

        monkeypatch.setattr(ocp, "save", broken)
        with pytest.raises(CheckpointError, match=r"could not save step=3 in .*: something else; .*intact"):
            store.save(3, small(3))
        self.assert_intact(store)

    @pytest.mark.parametrize("function", ["rename", "fsync"])
    def test_read_only(self, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
        original = getattr(os, function)

        def refuse(path: Any, *args: Any) -> None:
            if is_orbax(path):
                return original(path, *args)
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(os, function, refuse)
        with pytest.raises(OSError, match=r"could not save step=3 in .*Read-only.*intact") as error:
            store.save(3, small(3))
        assert error.value.errno == errno.EROFS
        self.assert_intact(store)

    def test_interrupted(self, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
        rename = os.rename

        def interrupt(source: Any, target: Any) -> None:
            if is_orbax(source):
                return rename(source, target)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "rename", interrupt)
            store.save(3, small(3))
        assert store.restore(small(0)).step == 2
        store.save(4, small(4))
        assert sorted(os.listdir(store.directory)) == ["step_00000002", "step_00000004"]

    def test_file_in_place_of_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for directory in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(OSError, match=r"could not save step=0 in .*file"):
                CheckpointStore(directory).save(0, small(0))

    def test_deletion_fails_after_a_good_save(
        self, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(path: Any) -> None:
            raise OSError(errno.EBUSY, "busy")

        with (
            monkeypatch.context() as patch,
            pytest.warns(UserWarning, match="step 3 is saved, but .*_00000001 could"),
        ):
            patch.setattr(shutil, "rmtree", refuse)
            store.save(3, small(3))
        assert store.steps() == [2, 3]
        store.save(4, small(4))
        assert sorted(os.listdir(store.directory)) == ["step_00000003", "step_00000004"]

    def test_real_full_disk_and_read_only_mount(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("no right to mount a tmpfs here")
        store = CheckpointStore(tmp_path / "store")
        try:
            store.save(1, small(1))
            store.save(2, small(2))
            noise = np.random.default_rng(0).random(200_000)
            with pytest.raises(OSError, match="could not save step=3") as error:
                store.save(3, {"noise": noise})
            assert error.value.errno == errno.ENOSPC
            self.assert_intact(store)
            subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
            with pytest.raises(OSError, match="could not save step=3") as error:
                store.save(3, small(3))
            assert error.value.errno == errno.EROFS
            self.assert_intact(store)
        finally:
            store.close()
            subprocess.run(["umount", str(tmp_path)], check=True)
        assert capfd.readouterr().err == ""

    def test_orbax_runs_into_a_full_disk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Filled up between the look at the free space and the write. Orbax fails, and goes on writing: without a
        word, and what is saved under the same number at once holds nothing of it."""
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("no right to mount a tmpfs here")
        monkeypatch.setattr(checkpoint_files, "_require_space", lambda *_: None)
        monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
        tree = {str(i): jnp.full((400,), float(i)) for i in range(40)}
        store = CheckpointStore(tmp_path / "store")
        try:
            store.save(1, tree)
            for free in (0, 1, 2, 4, 8, 12):
                disk = os.statvfs(tmp_path)
                (tmp_path / "filler").write_bytes(bytes(disk.f_bavail * disk.f_frsize - 4096 * free))
                with pytest.raises(OSError, match=r"could not save step=2 .*No space left on device"):
                    store.save(2, tree)
                (tmp_path / "filler").unlink()
                store.save(2, tree)
                time.sleep(0.05)
                assert_same(store.restore(tree, step=2).arrays, tree)
        finally:
            store.close()
            subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)
        assert capfd.readouterr().err == ""


def environment() -> dict[str, str]:
    root = str(Path(jaxrnn.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": root, "JAX_PLATFORMS": "cpu"}


WRITER = """if True:
    import itertools, sys, numpy as np
    from jaxrnn.training.checkpoints import CheckpointStore
    store = CheckpointStore(sys.argv[1])
    for i in itertools.count():  # each step is saved twice: half of the saves replace one
        arrays = {"a": np.full((50, 50), i, np.float32), "b": np.arange(i, i + 9)}
        store.save(i // 2, arrays, {"i": i})
        print(i, flush=True)
"""


STORM = """if True:
    import os, signal, sys, threading, time
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    import jax, numpy as np
    from jaxrnn.training.checkpoints import CheckpointStore
    store = CheckpointStore(sys.argv[1])
    jax.process_count = lambda: 2  # then it is a process of its own that saves
    tree = {"a": np.arange(9)}
    saving = threading.Thread(target=store.save, args=(1, tree))
    saving.start()
    while saving.is_alive():
        os.killpg(0, signal.SIGINT)
        os.killpg(0, signal.SIGTERM)
        time.sleep(0.02)
    assert (store.restore(tree).arrays["a"] == np.arange(9)).all()
    print("saved")
"""


def test_the_process_that_saves_for_several_outlives_signals_to_all(tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to every process of a run, and so do schedulers SIGTERM."""
    command = [sys.executable, "-W", "error", "-c", STORM, str(tmp_path)]
    run = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, start_new_session=True
    )
    assert (run.stdout, run.stderr) == ("saved\n", "")


def test_kill_at_any_instant(tmp_path: Path) -> None:
    """After kill -9 there is the last checkpoint that `save` returned from, or the one it was writing."""
    generator = random.Random(time.time_ns())
    for first in range(0, KILLS, 5):
        writers = []
        for i in range(first, min(first + 5, KILLS)):
            log = tmp_path / f"{i}.log"
            command = [sys.executable, "-W", "error", "-c", WRITER, str(tmp_path / str(i))]
            with open(log, "wb") as file:
                writers.append((log, i, subprocess.Popen(command, env=environment(), stdout=file, stderr=file)))
        try:
            for log, _, writer in writers:
                while b"\n" not in log.read_bytes() and writer.poll() is None:
                    time.sleep(0.01)
                time.sleep(generator.uniform(0, 0.2))
                writer.send_signal(signal.SIGKILL)
                assert writer.wait() == -signal.SIGKILL, log.read_text()
        finally:
            for _, _, writer in writers:
                writer.kill()
                writer.wait()
        for log, i, _ in writers:
            saved = int(log.read_text().split()[-1])
            store = CheckpointStore(tmp_path / str(i))
            found = os.listdir(store.directory)
            restored = store.restore({"a": np.zeros((50, 50), np.float32), "b": np.zeros(9, int)})
            n = restored.record["i"]
            assert n in (saved, saved + 1), (found, saved)
            assert (restored.arrays["a"] == n).all() and (restored.arrays["b"] == np.arange(n, n + 9)).all()
            for step in store.steps():
                store.restore({"a": np.zeros((50, 50), np.float32), "b": np.zeros(9, int)}, step=step)
            store.save(10**6, {})
            assert len(os.listdir(store.directory)) == len(store.steps()) == min(2, 1 + n // 2 + 1)
