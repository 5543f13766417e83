"""The registry: names found, broken plug-ins kept apart, conflicts named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from smoothflow.core.engine import Engine
from smoothflow.core.errors import FileFormatError, PluginError, UnknownNameError
from smoothflow.core.manifolds import Line
from smoothflow.core.plugins import Registry, hookimpl, registry
from smoothflow.core.transforms import Transform
from torch import Tensor


class Identity(Transform):
    """The identity of the line."""

    name = "identity"
    manifolds = frozenset({Line})
    smoothness = float("inf")

    @property
    def n_params(self) -> int:
        return 0

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return x, x * 0


def plugin_with(**hooks: Any) -> SimpleNamespace:
    return SimpleNamespace(**{name: hookimpl(function) for name, function in hooks.items()})


def identity_plugin() -> SimpleNamespace:
    def smoothflow_transforms() -> Mapping[str, type[Transform]]:
        return {"identity": Identity}

    return plugin_with(smoothflow_transforms=smoothflow_transforms)


def test_a_registered_transform_is_found_by_name_and_gone_after_unregistering() -> None:
    found = Registry()
    found.register(identity_plugin(), "mine", "my-distribution", "1.2")
    assert found.transform("identity") is Identity
    assert found.entry("transform", "identity").distribution == "my-distribution"
    found.unregister("mine")
    with pytest.raises(UnknownNameError):
        found.transform("identity")


def test_an_unknown_name_is_answered_with_the_nearest_and_all_known() -> None:
    found = Registry()
    found.register(identity_plugin(), "mine")
    with pytest.raises(UnknownNameError, match=r'called "identty"\. Did you mean "identity"\? Known: identity'):
        found.transform("identty")


def test_an_engine_by_its_old_name_is_found_with_a_warning_unless_a_plugin_bears_it() -> None:
    with pytest.warns(DeprecationWarning, match='The engine "verlet" is called "native" now'):
        assert registry().entry("engine", "verlet").name == "native"
    assert "verlet" not in registry().names("engine")

    class Verlet(Engine):
        name = "verlet"

    class Plugin:
        @hookimpl
        def smoothflow_engines(self) -> dict[str, type[Engine]]:
            return {"verlet": Verlet}

    other = Registry()
    other.register(Plugin(), "theirs")
    assert other.engine("verlet") is Verlet


def test_two_plugins_with_one_name_are_an_error_that_names_both() -> None:
    found = Registry()
    found.register(identity_plugin(), "first", "alpha")
    found.register(identity_plugin(), "second", "beta")
    with pytest.raises(PluginError, match=r"first of alpha and second of beta"):
        found.transform("identity")


def test_a_misspelt_hook_is_caught_and_leaves_the_others_working() -> None:
    found = Registry()
    found.register(identity_plugin(), "good")
    found.register(plugin_with(smoothflow_transfroms=lambda: {"identity": Identity}), "typo")
    assert [broken.plugin for broken in found.broken] == ["typo"]
    assert "smoothflow_transfroms" in found.broken[0].error
    assert found.names("transform") == ["identity"]


@pytest.mark.parametrize(
    ("offered", "message"),
    [
        (["identity"], "must return a mapping of names, not list"),
        ({"identity": int}, "must be a subclass of Transform"),
        ({1: Identity}, "one key is 1"),
    ],
)
def test_a_hook_that_returns_the_wrong_type_is_broken(offered: Any, message: str) -> None:
    found = Registry()
    found.register(plugin_with(smoothflow_transforms=lambda: offered), "bad")
    assert message in found.broken[0].error
    with pytest.raises(PluginError, match="is broken"):
        found.transform("bad")


def test_a_plugin_that_raises_on_import_is_listed_and_raises_only_when_asked_for() -> None:
    class EntryPoint:
        name = "exploding"
        dist = SimpleNamespace(name="explosives", version="0.1")

        def load(self) -> None:
            raise ImportError("no module named gunpowder")

    found = Registry()
    found.register(identity_plugin(), "good")
    found.load_entry_point(EntryPoint())  # type: ignore[arg-type]
    assert found.transform("identity") is Identity
    with pytest.raises(PluginError, match=r"exploding.*explosives 0.1.*gunpowder"):
        found.transform("exploding")


@pytest.mark.parametrize(
    ("hook", "offered", "message"),
    [
        ("smoothflow_models", {"tiny": "tiny.safetensors"}, '"tiny" must be a path, not str'),
        ("smoothflow_providers", {"rdkit": 3}, '"rdkit" must be callable, not int'),
        ("smoothflow_loaders", {".x": None}, '".x" must be callable, not NoneType'),
        ("smoothflow_engines", {"lj": Identity}, '"lj" must be a subclass of Engine'),
        ("smoothflow_integrators", {"verlet": Identity}, '"verlet" must be a subclass of Integrator'),
        ("smoothflow_transforms", {"identity": Line()}, '"identity" must be a subclass of Transform, not Line()'),
    ],
)
def test_every_hook_checks_what_it_is_given(hook: str, offered: Any, message: str) -> None:
    found = Registry()
    found.register(plugin_with(**{hook: lambda: offered}), "bad", "someone", "3")
    (broken,) = found.broken
    assert (broken.plugin, broken.distribution, broken.version) == ("bad", "someone", "3")
    assert broken.error.startswith(f"PluginError: {hook}")
    assert message in broken.error
    assert found.entries == {}


def test_everything_about_a_plugin_is_forgotten() -> None:
    found = Registry()
    found.register(identity_plugin(), "first", "alpha")
    found.register(identity_plugin(), "second", "beta")
    found.register(plugin_with(smoothflow_models=lambda: 3), "third")
    found.unregister("second")
    assert found.conflicts == {}
    assert found.transform("identity") is Identity
    assert [broken.plugin for broken in found.broken] == ["third"]
    found.unregister("third")
    assert found.broken == []
    assert found.names("transform") == ["identity"]


def test_names_are_those_of_one_kind_sorted(tmp_path: Path) -> None:
    found = Registry()
    offered = {"b": tmp_path, "a": tmp_path}
    found.register(plugin_with(smoothflow_models=lambda: offered), "models")
    found.register(identity_plugin(), "transforms")
    assert found.names("model") == ["a", "b"]
    assert found.names("engine") == []


def test_a_model_is_a_file_or_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Path] = []

    def load(path: Path) -> str:
        loaded.append(path)
        return "potential"

    shipped = tmp_path / "shipped.toy"
    shipped.write_text("x")
    found = Registry()
    found.register(
        plugin_with(smoothflow_models=lambda: {"tiny": shipped}, smoothflow_loaders=lambda: {".toy": load}), "toys"
    )
    assert found.load("tiny") == "potential"
    assert found.load(shipped) == "potential"
    assert loaded == [shipped, shipped]
    with pytest.raises(FileFormatError, match=r'no file "none\.toy".*comes with the package: tiny\.'):
        found.load("none.toy")
    with pytest.raises(FileFormatError, match="There is no file"):
        found.load(tmp_path / "none")
    with pytest.raises(FileFormatError, match="cannot be read: File name too long"):
        found.model_path("x" * 300)
    with pytest.raises(UnknownNameError, match=r'No model is called "tny"\. Did you mean "tiny"'):
        found.load("tny")
    (tmp_path / "other.xyz").write_text("x")
    with pytest.raises(UnknownNameError, match=r'No loader is called "\.xyz".*Known: \.toy'):
        found.load(tmp_path / "other.xyz")
    with pytest.raises(FileFormatError, match=r"comes with the package: none\."):
        Registry().load("none.toy")
    # a file of a model's name comes first
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").write_text("x")
    assert found.model_path("tiny") == Path("tiny")


def test_a_plugin_without_a_distribution_is_of_nobody_known() -> None:
    found = Registry()
    found.load_entry_point(SimpleNamespace(name="loose", dist=None, load=identity_plugin))  # type: ignore[arg-type]
    entry = found.entry("transform", "identity")
    assert (entry.plugin, entry.distribution, entry.version) == ("loose", "unknown", "unknown")


def test_every_built_in_plugin_loads() -> None:
    assert registry().broken == []
    assert registry().conflicts == {}


def test_third_party_plugins_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        SimpleNamespace(name="theirs", dist=SimpleNamespace(name="third", version="1"), load=identity_plugin),
    ]
    monkeypatch.setattr("smoothflow.core.plugins.entry_points", lambda group: points)
    for value, expected in [
        ("", []),
        ("other", []),
        ("theirs", ["identity"]),
        ("a, theirs", ["identity"]),
        (None, ["identity"]),
    ]:
        if value is None:
            monkeypatch.delenv("SMOOTHFLOW_PLUGINS")
        else:
            monkeypatch.setenv("SMOOTHFLOW_PLUGINS", value)
        assert registry.__wrapped__().names("transform") == expected


def test_a_plugin_that_is_switched_off_is_not_imported_and_built_ins_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = SimpleNamespace(name="ours", dist=SimpleNamespace(name="smoothflow", version="1"), load=identity_plugin)

    def explode() -> None:
        pytest.fail("it was imported")

    theirs = SimpleNamespace(name="theirs", dist=SimpleNamespace(name="third", version="1"), load=explode)
    monkeypatch.setattr("smoothflow.core.plugins.entry_points", lambda group: [theirs, ours])
    monkeypatch.setenv("SMOOTHFLOW_PLUGINS", "")
    assert registry.__wrapped__().names("transform") == ["identity"]


def test_plugins_come_from_installed_entry_points_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "smoothflow_sneaky.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert registry.__wrapped__().names("transform") == registry().names("transform")


def test_our_own_come_first_and_are_always_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def point(name: str, distribution: str | None) -> SimpleNamespace:
        dist = None if distribution is None else SimpleNamespace(name=distribution, version="1")
        return SimpleNamespace(name=name, dist=dist, load=identity_plugin)

    points = [point("a", None), point("b", "third"), point("z", "smoothflow")]
    monkeypatch.setattr("smoothflow.core.plugins.entry_points", lambda group: points)
    monkeypatch.setenv("SMOOTHFLOW_PLUGINS", " b, c")
    conflict = registry.__wrapped__().conflicts["transform", "identity"]
    assert "z of smoothflow and b of third" in conflict
    monkeypatch.setenv("SMOOTHFLOW_PLUGINS", "")
    assert registry.__wrapped__().entry("transform", "identity").plugin == "z"
    points.pop()
    monkeypatch.setenv("SMOOTHFLOW_PLUGINS", "a")
    entry = registry.__wrapped__().entry("transform", "identity")
    assert (entry.plugin, entry.distribution) == ("a", "unknown")
