import re
from pathlib import Path

import pytest

from pytest_arl import PoolNotFound, UsageError
from pytest_arl.pools import LocalPool, Mount, find_pool, load_pools, refuse_written
from pytest_arl.settings import Settings


def project(folder: Path, tables: str) -> Settings:
    (folder / "pyproject.toml").write_text(tables)
    return Settings.build(start_dir=folder)


def pool(folder: Path, body: str) -> LocalPool:
    return find_pool(project(folder, f"[tool.pytest-arl.pools.p]\n{body}"), "p")


def test_the_default_pool_is_always_there(tmp_path: Path) -> None:
    pools = load_pools(Settings.build(start_dir=tmp_path))
    assert list(pools) == ["default"]
    default = pools["default"]
    assert (default.root, default.mounts, default.env, default.network, default.warm) == (None, (), {}, "none", 0)
    assert (default.memory, default.workspace, default.tmp, default.output) == (2**31, 2**30, 2**29, 2**24)
    assert (default.processes, default.cpus, default.files, default.source) == (512, None, 4096, None)
    assert find_pool(Settings.build(start_dir=tmp_path), "default") == default


def test_a_table_sets_every_key(tmp_path: Path) -> None:
    found = pool(
        tmp_path,
        'root = "image"\nmounts = ["src:/src", "/data:/data:rw"]\nenv = { DEBUG = "1" }\nnetwork = "host"\n'
        'memory = "512Mi"\nprocesses = 64\ncpus = 1\ncpu_time = 2\nfiles = 128\nworkspace = "1M"\ntmp = 1024\n'
        'output = "64Ki"\nwarm = 2\nstack = "64Mi"\n',
    )  # fmt: skip
    assert found == LocalPool(
        name="p",
        base_dir=tmp_path,
        root=tmp_path / "image",
        mounts=(
            Mount(tmp_path / "src", "/src", writable=False, text="src:/src"),
            Mount(Path("/data"), "/data", writable=True, text="/data:/data:rw"),
        ),
        env={"DEBUG": "1"},
        network="host",
        memory=512 * 2**20,
        processes=64,
        cpus=1.0,
        cpu_time=2.0,
        files=128,
        workspace=10**6,
        tmp=1024,
        output=65536,
        stack=2**26,
        warm=2,
        source=tmp_path / "pyproject.toml",
    )


@pytest.mark.parametrize(
    ("written", "stack"), [('"512Ki"', 2**19), ("1048576", 2**20), ('"1Pi"', 2**50), ('"unlimited"', None)]
)
def test_a_stack_is_a_size_or_unlimited(written: str, stack: int | None, tmp_path: Path) -> None:
    assert pool(tmp_path, f"stack = {written}").stack == stack


def test_the_default_pool_can_be_changed(tmp_path: Path) -> None:
    settings = project(tmp_path, "[tool.pytest-arl.pools.default]\nwarm = 3")
    assert load_pools(settings)["default"].warm == find_pool(settings, "default").warm == 3


def test_root_host_is_this_machine(tmp_path: Path) -> None:
    assert pool(tmp_path, 'root = "host"').root is None


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("memry = 1", ["unknown key 'memry'", "did you mean 'memory'?"]),
        ('memory = "1Q"', ['memory must be bytes or a size such as "512Mi"', "'1Q'"]),
        ("memory = 0", ["memory must be more than 0"]),
        ("memory = -1", ["memory must be bytes"]),
        ("memory = true", ["memory must be bytes", "True"]),
        ('processes = "many"', ["processes must be a whole number, at least 1"]),
        ("processes = 0", ["processes must be a whole number, at least 1"]),
        ("warm = -1", ["warm must be a whole number, at least 0"]),
        ("stack = 0", ["stack must be a size", '"64Mi"', '"unlimited"', "not 0"]),
        ('stack = "511Ki"', ["stack must be a size from", '"512Ki"', "not '511Ki'"]),
        ('stack = "2Pi"', ["stack must be a size from", "not '2Pi'"]),
        ('stack = "none"', ["stack must be a size", "not 'none'"]),
        ("stack = true", ["stack must be a size", "not True"]),
        ("files = 3", ["files must be a whole number, at least 16"]),
        ("cpu_time = 0", ["cpu_time must be more than 0"]),
        ("cpu_time = 'soon'", ["cpu_time must be seconds or a duration", "'soon'"]),
        ("cpu_time = -1", ["cpu_time must be a duration"]),
        ("cpu_time = true", ["cpu_time must be seconds or a duration", "a bool"]),
        ("cpus = 0", ["cpus must be a number of CPUs"]),
        ("cpus = nan", ["cpus must be a number of CPUs"]),
        ('network = "bridge"', ["network must be 'none' or 'host', not 'bridge'"]),
        ('mounts = "src:/src"', ["mounts must be a list"]),
        ('mounts = ["src"]', ["mounts has 'src'", "src:/src:ro"]),
        ('mounts = ["src:/src:wr"]', ["mounts has 'src:/src:wr'"]),
        ('mounts = ["src:dst"]', ["mounts has 'src:dst'", "must be an absolute path"]),
        ('mounts = ["src:/a/../b"]', ["without '..'"]),
        ('mounts = [":/src"]', ["mounts has ':/src'"]),
        ("mounts = [3]", ["mounts has 3"]),
        ("env = { A = 1 }", ["env ['A'] must be a string, not an int"]),
        ('env = { A = "hunter2\\u0000" }', ["env ['A'] has a NUL byte"]),
        ('env = { "A=B" = "1" }', ["env has the name 'A=B'"]),
        ('env = "A=1"', ["env must be a table"]),
        ("root = 3", ['root must be "host" or a folder']),
        ('root = ""', ['root must be "host" or a folder']),
    ],
)
def test_a_bad_key_names_pool_file_key_and_fix(tmp_path: Path, body: str, says: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        pool(tmp_path, body)
    for part in [f"pool 'p' in {tmp_path / 'pyproject.toml'}: ", *says]:
        assert part in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_one_bad_pool_does_not_stop_another(tmp_path: Path) -> None:
    settings = project(tmp_path, "[tool.pytest-arl.pools.bad]\nx = 1\n[tool.pytest-arl.pools.good]\nwarm = 1")
    assert find_pool(settings, "good").warm == 1


def test_an_unknown_pool_lists_those_there_are_and_their_file(tmp_path: Path) -> None:
    settings = project(tmp_path, "[tool.pytest-arl.pools.node-20]\n[tool.pytest-arl.pools.redis-7]")
    with pytest.raises(PoolNotFound) as caught:
        find_pool(settings, "node20")
    said = str(caught.value)
    assert "'node20' (did you mean 'node-20'?); pools: default, node-20, redis-7" in said
    assert str(tmp_path / "pyproject.toml") in said


def test_an_unknown_pool_with_no_file_says_where_one_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(PoolNotFound, match=rf"pools: default; no pyproject.toml from {tmp_path} up to the top"):
        find_pool(Settings.build(start_dir=tmp_path), "ci")


def test_a_pools_file_takes_the_place_of_pyproject(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    file = tmp_path / "f" / "pools.toml"
    file.write_text('[pools.a]\nmounts = ["src:/src"]')
    (tmp_path / "pyproject.toml").write_text("[tool.pytest-arl.pools.b]")
    settings = Settings.build(start_dir=tmp_path, cli={"pools_file": str(file)})
    pools = load_pools(settings)
    assert list(pools) == ["default", "a"]
    assert pools["a"].mounts[0].source == tmp_path / "f" / "src"


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "cannot read"), ("[pools", "is not valid TOML"), ("pools = 3", "must be a table"), ("[pool.a]", "'pool'")],
)
def test_a_bad_pools_file_is_named(tmp_path: Path, text: str | None, says: str) -> None:
    file = tmp_path / "pools.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_pools(Settings.build(cli={"pools_file": file}))
    assert str(file) in str(caught.value)
    assert says in str(caught.value)


def test_a_pools_repr_holds_no_values_of_variables(tmp_path: Path) -> None:
    assert "hunter2" not in repr(pool(tmp_path, 'env = { TOKEN = "hunter2" }'))


@pytest.mark.parametrize(
    ("mount", "written", "refused"),
    [
        ("src:/src:rw", "src/out", True),
        ("src:/src:rw", "src", True),
        ("src:/src:rw", "link/out", True),
        ("src:/src:rw", "src/away/report.xml", True),
        ("src:/src:rw", "twice", True),
        ("src:/src:rw", "src/sub/../../out", True),
        ("src:/src:rw", "link/../out", False),
        ("src/out/output/x:/x:rw", "src/out", True),
        ("src:/src:rw", "out", False),
        ("src:/src:rw", "src-out", False),
        ("src:/src:ro", "src/out", False),
        ("src/data:/data:rw", "src", False),
    ],
)
def test_nothing_is_written_where_a_sandbox_can_write(tmp_path: Path, mount: str, written: str, refused: bool) -> None:
    (tmp_path / "src/sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("src")
    (tmp_path / "twice").symlink_to("link/away/report.xml")
    (tmp_path / "src/away").symlink_to(tmp_path / "elsewhere")
    found = pool(tmp_path, f'mounts = ["{mount}"]')
    refuse_written(found, {})
    try:
        refuse_written(found, {"--arl-output": tmp_path / written})
    except UsageError as error:
        assert refused
        assert re.match(r"--arl-output: .* pool 'p' .*:rw", str(error))
    else:
        assert not refused
