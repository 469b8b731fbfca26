"""Scaffold: the package that a plugin author starts from."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from diffbench.atomic import new_folder
from diffbench.errors import DiffbenchError, OptionError
from diffbench.recipe import NAME

FILES = {
    "method.py.template": "{module}.py",
    "test_method.py.template": "test_{module}.py",
    "pyproject.toml.template": "pyproject.toml",
    "README.md.template": "README.md",
}


@dataclass(frozen=True, slots=True)
class Names:
    """What the parts of a new package are called."""

    name: str
    distribution: str
    module: str
    class_name: str


def method_names(name: str) -> Names:
    """Names of a method's package.

    Raises:
        OptionError: if a method cannot be called that.
    """
    if not re.fullmatch(NAME, name) or name[-1] in "._-":
        raise OptionError(
            f"{name!r} is no name for a method: lower case letters, digits, '-', '_' and '.', "
            "at most 64, with a letter or digit at both ends"
        )
    words = [word for word in re.split(r"[._-]+", name) if word]
    class_name = "".join(word.capitalize() for word in words)
    if class_name[0].isdigit():
        class_name = f"Method{class_name}"
    return Names(name, f"diffbench-{'-'.join(words)}", f"diffbench_{'_'.join(words)}", class_name)


def new_method(name: str, out: Path | None = None) -> Path:
    """Write a package with one working method, and return its folder.

    Args:
        name: what the method will be called.
        out: the folder to make; by default one named after the package, here.

    Raises:
        OptionError: if a method cannot be called that.
        DiffbenchError: if the folder is not empty or cannot be written.
    """
    names = method_names(name)
    if importlib.util.find_spec(names.module) is not None:
        raise OptionError(f"a module named {names.module} is installed already; choose another name than {name!r}")
    folder = Path(names.distribution) if out is None else out
    try:
        if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
            raise DiffbenchError(f"{folder}: exists and is not empty; name another folder with --out")
        with new_folder(folder) as draft:
            for template, target in FILES.items():
                text = files("diffbench.templates").joinpath(template).read_text(encoding="utf-8")
                path = draft / target.format(module=names.module)
                path.write_text(Template(text).substitute(asdict(names)), encoding="utf-8")
    except OSError as error:
        raise DiffbenchError(f"{folder}: cannot be written ({error.strerror})") from error
    return folder
