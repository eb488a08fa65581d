"""The example of every hook is a working implementation."""

import inspect
import textwrap

import pluggy
import pytest

from mergecore import api, hookspecs

SPECS = {name: spec for name, spec in vars(hookspecs).items() if name.startswith("mergecore_")}


@pytest.mark.parametrize("name", SPECS)
def test_the_example_of_a_hook_registers(name):
    document = inspect.getdoc(SPECS[name])
    assert document and "Example::" in document, f"{name} needs an example"
    code = textwrap.dedent(document.split("Example::", 1)[1])
    module = type(inspect)("example")
    vars(module).update(hookimpl=api.hookimpl, InputError=api.InputError)
    exec(compile(code, name, "exec"), vars(module))
    manager = pluggy.PluginManager("mergecore")
    manager.add_hookspecs(hookspecs)
    manager.register(module)
    manager.check_pending()
    assert getattr(manager.hook, name).get_hookimpls()


def test_the_file_holds_specs_and_nothing_else():
    assert {name for name, value in vars(hookspecs).items() if inspect.isfunction(value)} == set(SPECS)
