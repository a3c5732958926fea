"""What a user can type: every public name is typed and documented in the house's form."""

import dataclasses
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from typing import Any, ForwardRef

import pytest
from public_api import NOT_FOR_USERS, PublicName, for_users, public_modules, public_names

import srr

COMPANION = re.compile(r"^(?P<base>\w+?)(_value_and_grad|_grad|_hvp)$")
FIRST_NAMES = 40
MIRRORS = {"srr.derive", "srr.enclose", "srr.nn.hf"}
NAMES = list(public_names())
FUNCTIONS = [entry for entry in NAMES if inspect.isfunction(entry.value)]
CLASSES = [entry for entry in NAMES if inspect.isclass(entry.value)]
# Where anything is taken or given: what it is, as a pattern of "name argument".
ANYTHING = {
    r"SecondMoment\.from_dask ": "Dask has no types",
    r"Classifier\.(predict|features) images": "a path, pixels, or a sequence of paths, as nested as they come",
    r"own_source (train|val)": "whatever has a length and items",
    r"Lab\.numpy ": "NumPy arrays, numbers and tuples of them come back as nested as they were given",
    r"(Result(\.__init__)?(\.statement| statement)|(ledger|load(_package)?|verify) \w+)": "statements of all kinds",
    r"(Result|Proof)\.as_dict return|Proof\.of found|Result\.of (plain|entry)": "JSON",
    r"(Enclosed|Equal|Limit|Nonnegative)\.|Statement\.claims": "SymPy and python-flint have no types",
    r"plot_objective solution": "points of any kind: only the history is drawn",
    r"(create_model|load_model|load_classifier|PretrainedModel\.from_pretrained) overrides": "fields of a config",
    r"NetworkConfig\.(override|from_dict) ": "fields of whichever config it is",
    r"(\w+Config\.attention_options|Block\.__init__) ": "options of whichever attention it is",
    r"PretrainedModel\.(save_pretrained|push_to_hub) ": "options handed on to huggingface_hub",
    r"load_released state_dict": "a checkpoint that is asked whether it is one",
    r"(TrainingModule|WeightAverage)\.": "the signatures of Lightning, which is not typed here; batches by name",
    r"(load_run_config|merge|parse_overrides|read_config_file|resolve|resolve_with_recipe) ": "YAML, not yet checked",
    r"Crate(Config|ForImageClassification|ImageProcessor)\.": "the signatures of transformers",
    r"(read_checkpoint|train) return": "a file of torch; a summary written as JSON",
}
ANY_NAMES = {"Any", "DType", "Device", "Namespace"}  # array libraries give the last three no type
OPERATORS = [entry for entry in FUNCTIONS if entry.source.startswith("srr.ops.")]
SECTIONS = re.compile(r"^(Args|Returns|Raises|Yields|Attributes|Notes?|Example|Source|Shapes)\s*:", re.MULTILINE)


def path(entry: PublicName) -> str:
    return entry.path


def companion_of(entry: PublicName) -> PublicName | None:
    """The function whose arguments a gradient or Hessian product shares; None for every other name."""
    found = COMPANION.match(entry.name)
    base = found["base"] if found else None
    return next((other for other in NAMES if other.name == base and other.source == entry.source), None)


def parameters(function: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def section(doc: str, name: str) -> str:
    """Text of one section of a docstring, empty when there is none."""
    start = re.search(rf"^{name}:[ ]*", doc, re.MULTILINE)
    if start is None:
        return ""
    rest = doc[start.end() :]
    end = SECTIONS.search(rest)
    return rest[: end.start()] if end else rest


def annotations(entry: PublicName) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What a public name takes, gives and holds: "name argument", the type as it is written, and its module's names."""
    value = inspect.unwrap(entry.value) if callable(entry.value) else entry.value
    members = {"": value} if inspect.isfunction(value) else {}
    if inspect.isclass(value):
        members = {
            f".{name}": getattr(member, "__func__", getattr(member, "fget", member))
            for name, member in vars(value).items()
            if name in ("__init__", "__call__") or not name.startswith("_")
        }
        for name, kind in vars(value).get("__annotations__", {}).items():
            if not name.startswith("_"):
                yield f"{entry.name}.{name}", _written(kind), vars(sys.modules[value.__module__])
    for member, function in members.items():
        if inspect.isfunction(function):
            for name, kind in function.__annotations__.items():
                yield f"{entry.name}{member} {name}", _written(kind), function.__globals__


def _written(kind: Any) -> str:
    return kind.__forward_arg__ if isinstance(kind, ForwardRef) else kind if isinstance(kind, str) else repr(kind)


def test_nothing_public_is_of_any_type_without_a_reason():
    found = [
        where
        for entry in NAMES
        for where, kind, names in annotations(entry)
        for word in re.findall(r"(?<![.\w])[A-Za-z]\w*", kind)
        if word == "Any" or (names.get(word) is Any and word not in ANY_NAMES)
    ]
    assert len(found) > 20
    free = [where for where in found if not any(re.match(known, where) for known in ANYTHING)]
    assert not free, f"of any type, and not on the list: {free}"
    unused = [known for known in ANYTHING if not any(re.match(known, where) for where in found)]
    assert not unused, f"on the list, and not needed: {unused}"


def test_there_is_something_to_check():
    assert len(NAMES) > 50
    assert {"srr", "srr.nn", "srr.nn.losses", "srr.training"} <= {module.__name__ for module in public_modules()}
    assert sum(companion_of(entry) is not None for entry in NAMES) > 8


def test_every_room_says_what_is_public():
    found = {f"srr.{info.name}" for info in pkgutil.iter_modules(srr.__path__)} - NOT_FOR_USERS
    rooms = {name for name in found if for_users(name)}
    assert rooms - {module.__name__ for module in public_modules()} == set()


def test_the_first_names_are_few():
    names = [name for name in srr.__all__ if not inspect.ismodule(getattr(srr, name))]
    assert len(names) <= FIRST_NAMES


def test_no_two_public_things_share_a_name():
    """Two things of one name in two rooms are one import away from being taken for each other.

    `MIRRORS` are the exception: what they have is what bears that name elsewhere, with proved ends, on expressions or
    under the interface of another library.
    """
    paths: dict[str, list[str]] = {}
    for entry in (entry for entry in NAMES if entry.module not in MIRRORS):
        paths.setdefault(entry.name, []).append(entry.path)
    assert {name: found for name, found in paths.items() if len(found) > 1} == {}


@pytest.mark.parametrize("module", public_modules(), ids=lambda module: module.__name__)
def test_all_is_complete_and_without_repetition(module):
    assert len(set(module.__all__)) == len(module.__all__)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    assert (module.__doc__ or "").strip()


def test_version_is_the_one_of_the_package():
    from importlib.metadata import version

    assert srr.__version__ == version("srr")


def test_dir_lists_the_public_names():
    assert set(srr.__all__) <= set(dir(srr))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = srr.no_such_name


@pytest.mark.parametrize("entry", FUNCTIONS + CLASSES, ids=path)
def test_docstring_opens_with_one_sentence(entry):
    doc = inspect.getdoc(entry.value) or ""
    assert doc, f"{entry.path} has no docstring"
    summary = " ".join(doc.split("\n\n", 1)[0].split())
    assert summary.endswith((".", ":", "?")), f"{entry.path}: the summary is not a sentence: {summary!r}"


@pytest.mark.parametrize("entry", FUNCTIONS, ids=path)
def test_function_is_typed_and_its_arguments_are_documented(entry):
    doc, arguments = inspect.getdoc(entry.value) or "", section(inspect.getdoc(entry.value) or "", "Args")
    signature, base = inspect.signature(entry.value), companion_of(entry)
    shared = parameters(base.value) if base and base.name in doc and not arguments else {}
    for name, parameter in signature.parameters.items():
        assert parameter.annotation is not inspect.Parameter.empty, f"{entry.path}: {name} has no type"
        said = arguments or (doc if shared else "")
        assert name in shared or re.search(rf"\b{re.escape(name)}\b", said), f"{entry.path}: nothing is said of {name}"
    assert signature.return_annotation is not inspect.Signature.empty, f"{entry.path} has no return type"
    if signature.return_annotation not in (None, "None") and not shared:
        assert section(doc, "Returns") or section(doc, "Yields"), f"{entry.path}: no Returns section"


@pytest.mark.parametrize("entry", [entry for entry in FUNCTIONS if companion_of(entry)], ids=path)
def test_companion_names_its_function_and_its_shape(entry):
    """A gradient's docstring says what differs from the value's: which function it belongs to, and its shape."""
    doc = inspect.getdoc(entry.value) or ""
    if not section(doc, "Args"):
        assert re.search(rf":func:`(srr\.[a-z.]*)?{companion_of(entry).name}`", doc.split("\n\n")[0]), entry.path
        assert "shape" in doc, f"{entry.path}: no shape of the result"


@pytest.mark.parametrize("entry", OPERATORS, ids=path)
def test_operator_follows_the_house_order(entry):
    """Arrays positional, scalars keyword-only, xp=None last; a source and the errors are named."""
    given = parameters(entry.value)
    names = list(given)
    if "xp" in given:
        assert names[-1] == "xp", f"{entry.path}: xp is not last"
        assert given["xp"].default is None
        assert given["xp"].kind is inspect.Parameter.KEYWORD_ONLY
    for scalar in {"eps", "lam", "step", "scale", "threshold", "terms", "temperature", "causal"} & set(given):
        array = "Array" in str(given[scalar].annotation)  # a scale for each item of a batch is an array
        assert array or given[scalar].kind is inspect.Parameter.KEYWORD_ONLY, f"{entry.path}: {scalar} is positional"
    doc = inspect.getdoc(entry.value) or ""
    assert section(doc, "Source"), f"{entry.path}: no Source"
    assert section(doc, "Raises") or companion_of(entry), f"{entry.path}: no Raises"


@pytest.mark.parametrize("entry", CLASSES, ids=path)
def test_class_documents_its_arguments_and_its_public_methods(entry):
    doc = "".join(inspect.getdoc(base) or "" for base in entry.value.__mro__ if base.__module__.startswith("srr"))
    tuple_fields = getattr(entry.value, "_fields", ())
    ours = {name for base in entry.value.__mro__ if base.__module__.startswith("srr") for name in base.__annotations__}
    data_fields = dataclasses.fields(entry.value) if dataclasses.is_dataclass(entry.value) else ()
    data_fields = [field for field in data_fields if field.name in ours]  # not those of a class of another library
    for name in (*tuple_fields, *(field.name for field in data_fields)):
        if not name.startswith("_"):
            assert re.search(rf"\b{re.escape(name)}\b", doc), f"{entry.path}: nothing is said of {name}"
    for name, method in vars(entry.value).items():
        if not name.startswith("_") and inspect.isfunction(method):
            assert inspect.getdoc(getattr(entry.value, name)), f"{entry.path}.{name} has no docstring"
            hints = inspect.signature(method)
            assert hints.return_annotation is not inspect.Signature.empty, f"{entry.path}.{name} is not typed"
