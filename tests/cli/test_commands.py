"""Commands in packages are listed without importing them, imported when called, and reported when broken."""

import pytest

GROUP = """
import typer
app = typer.Typer(help="Counts things.")
@app.command()
def up(number: int, twice: bool = typer.Option(False, "--twice", help="Count again.")):
    '''Count up to NUMBER.'''
    print(list(range(number)) * (1 + twice))
@app.command()
def refuse():
    '''Refuse.'''
    from mergecore.errors import InputError
    raise InputError("no: mergecore count up 3")
"""
FUNCTION = """
def greet(name: str) -> None:
    '''Greet NAME.'''
    print("hello", name)
"""


@pytest.fixture
def with_commands(plugin_env):
    plugin_env.add("mergecore-count", {"commands": {"count": "mod_count:app"}}, {"mod_count.py": GROUP})
    plugin_env.add("mergecore-greet", {"commands": {"greet": "mod_greet:greet"}}, {"mod_greet.py": FUNCTION})
    plugin_env.add("mergecore-lost", {"commands": {"lost": "mod_lost:app"}}, {"mod_lost.py": "import no_such_library"})
    plugin_env.add("mergecore-thief", {"commands": {"run": "mod_lost:app"}})
    return plugin_env


@pytest.mark.parametrize(
    ("arguments", "status", "out", "err"),
    [
        (("count", "up", "2", "--twice"), 0, "[0, 1, 0, 1]\n", ""),
        (("greet", "you"), 0, "hello you\n", ""),
        (("count", "refuse"), 2, "", "error: no: mergecore count up 3\n"),
        (("count", "down"), 2, "", "error: No such command 'down'"),
        (("greet",), 2, "", "error: Missing argument 'name'|error: Missing argument 'NAME'"),
        (("count",), 2, "", "error: Missing command."),
        (("lost",), 2, "", "command 'lost' from mergecore-lost 1.0 cannot be used"),
        (("cuont", "up", "2"), 2, "", "command 'cuont' is not installed; did you mean 'count'?"),
        (("run", "nowhere.yml", "out"), 2, "", "error: nowhere.yml: no such file"),
    ],
)
def test_a_command_of_a_package_is_called_like_cores_own(with_commands, tmp_path, arguments, status, out, err):
    result = with_commands.mergecore(*arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (status, out), result.stderr
    assert any(words in result.stderr for words in err.split("|")) and "Traceback" not in result.stderr


def test_the_help_lists_commands_without_importing_them(with_commands):
    listed = with_commands.mergecore("--help").stdout
    assert "Counts things." in listed and "Greet NAME." in listed, "the description of a command"
    assert "command 'lost' from mergecore-lost 1.0" in listed and "no_such_library" not in listed
    assert listed.count("\n  run ") == 1, "core commands cannot be replaced"
    assert "Count up to NUMBER." in with_commands.mergecore("count", "--help").stdout
