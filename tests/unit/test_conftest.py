"""What `--require`, `-m` and the guard against the network do, on tests made for it."""

from pathlib import Path

import pytest

from tests import conftest

pytest_plugins = ["pytester"]

INI = "[pytest]\nmarkers =\n    lab: x\n    image: x\n    fuzz: x\n    soak: x\n"


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest(Path(conftest.__file__).read_text())
    pytester.makeini(INI)
    return pytester


def outcomes(project: pytest.Pytester, *options: str) -> dict[str, int]:
    return project.runpytest_subprocess(*options).parseoutcomes()


def test_a_required_kind_fails_where_it_would_be_skipped(project: pytest.Pytester) -> None:
    project.makepyfile(
        "import pytest\n"
        "@pytest.mark.lab\n"
        "def test_lab(): pytest.skip('no lab here')\n"
        "@pytest.mark.image\n"
        "def test_image(): pytest.skip('no image here')\n"
        "def test_other(): pytest.skip('not today')\n"
        "@pytest.mark.lab\n"
        "@pytest.mark.xfail\n"
        "def test_known(): assert False\n"
    )
    assert outcomes(project) == {"skipped": 3, "xfailed": 1}
    assert outcomes(project, "--require=lab") == {"failed": 1, "skipped": 2, "xfailed": 1}
    result = project.runpytest_subprocess("--require=lab,image")
    assert result.parseoutcomes() == {"failed": 2, "skipped": 1, "xfailed": 1}
    result.stdout.fnmatch_lines(["*no lab here (--require=lab)*"])


def test_a_fixture_that_skips_counts_as_well(project: pytest.Pytester) -> None:
    project.makepyfile(
        "import pytest\n"
        "@pytest.fixture(scope='session', autouse=True)\n"
        "def able(): pytest.skip('not root')\n"
        "@pytest.mark.lab\n"
        "def test_lab(): pass\n"
    )
    assert outcomes(project) == {"skipped": 1}
    assert outcomes(project, "--require=lab")["errors"] == 1


def test_a_module_of_a_required_kind_cannot_skip_itself(project: pytest.Pytester) -> None:
    folder = project.mkdir("lab")
    (folder / "test_whole.py").write_text(
        "import pytest\npytest.skip('no lab here', allow_module_level=True)\n"
    )
    assert outcomes(project) == {"skipped": 1}
    assert outcomes(project, "--require=image") == {"skipped": 1}
    assert outcomes(project, "--require=lab") == {"errors": 1}


def test_an_unknown_kind_is_refused(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess("--require=lap")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--require=lap: it takes lab,image,browser"])


def test_long_ones_run_only_where_they_are_named(project: pytest.Pytester) -> None:
    project.makepyfile(
        "import pytest\n"
        "@pytest.mark.fuzz\n"
        "def test_fuzz(): pass\n"
        "@pytest.mark.soak\n"
        "def test_soak(): pass\n"
        "def test_short(): pass\n"
    )
    assert outcomes(project) == {"passed": 1, "deselected": 2}
    assert outcomes(project, "-m", "not lab") == {"passed": 1, "deselected": 2}
    assert outcomes(project, "-m", "fuzz") == {"passed": 1, "deselected": 2}
    assert outcomes(project, "-m", "fuzz or soak") == {"passed": 2, "deselected": 1}


def test_only_tests_in_the_lab_reach_other_machines(project: pytest.Pytester) -> None:
    project.makepyfile(
        "import pytest, socket\n"
        "def reach():\n"
        "    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:\n"
        "        sock.connect(('192.0.2.1', 9))\n"
        "def test_address(): reach()\n"
        "def test_name(): socket.getaddrinfo('example.test', 80)\n"
        "def test_here():\n"
        "    socket.getaddrinfo('localhost', 80)\n"
        "    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:\n"
        "        sock.connect(('127.0.0.1', 9))\n"
        "@pytest.mark.lab\n"
        "def test_lab():\n"
        "    try: reach()\n"
        "    except OSError: pass\n"
    )
    result = project.runpytest_subprocess()
    assert result.parseoutcomes() == {"failed": 2, "passed": 2}
    result.stdout.fnmatch_lines(["*ReachedOut: socket.connect 192.0.2.1*"])
