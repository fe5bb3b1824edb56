"""How the tests of the pile run a command."""

import pytest

from edge_app.cli import main


@pytest.fixture
def say(capsys, tmp_path):
    def run(*argv):
        code = main([*map(str, argv), "--home", str(tmp_path / "home")])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run
