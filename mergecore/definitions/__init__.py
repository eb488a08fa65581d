"""Model classes as data: architecture definitions, how they are inferred, and the keys of config.json."""

from mergecore.definitions.config import (
    Keys,
    Period,
    class_name,
    denies_ties,
    first_of,
    get_key,
    is_tied,
    leaves,
    tie_keys,
    with_keys,
    written_key,
)
from mergecore.definitions.config_spelling import spelled_alike
from mergecore.definitions.definition import Architecture, Module, Weight, fill, numbers, size_config
from mergecore.definitions.definition_files import (
    definition_paths,
    load_definition,
    local_definitions,
    recipe_definitions,
)
from mergecore.definitions.inference import extra_counts, infer_definition, is_extra, is_ignored
from mergecore.definitions.parsing import parse_definition

__all__ = [
    "Architecture",
    "Keys",
    "Module",
    "Period",
    "Weight",
    "class_name",
    "definition_paths",
    "denies_ties",
    "extra_counts",
    "fill",
    "first_of",
    "get_key",
    "infer_definition",
    "is_extra",
    "is_ignored",
    "is_tied",
    "leaves",
    "load_definition",
    "local_definitions",
    "numbers",
    "parse_definition",
    "recipe_definitions",
    "size_config",
    "spelled_alike",
    "tie_keys",
    "with_keys",
    "written_key",
]
