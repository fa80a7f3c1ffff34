"""Many pages in one HTML file that opens from disk: packed, with one script, and a policy that lets nothing else run.

A browser loads no modules from `file://`, so the app's are bound into one script, each inside a function of its own.
Pages are kept as gzip in base64, which a browser unpacks itself: a third of their size, and whatever a corpus holds,
the file has no character of it outside the alphabet of base64.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import Callable, Sequence

IMPORT = re.compile(r'import \{ ([\w$, ]+) \} from "\./([\w-]+\.js)";')
EXPORT = re.compile(r"export ((?:async )?function\*?|const|class) ([\w$]+)")


def bound(entry: str, read: Callable[[str], str]) -> str:
    """The module `entry` and all that it imports, as one script that imports nothing; `read` gives a module's text.

    Knows the two forms that the app's modules use: `import { a, b } from "./x.js";` on one line, and `export` before
    a `function`, `const` or `class`. Raises ValueError for any other, for modules that import each other in a circle,
    and for text that would end the script element.
    """
    done: dict[str, str] = {}
    _bind(entry, read, done, ())
    script = "".join(["const modules = {};\n", *done.values()])
    if "</script" in script.lower() or "<!--" in script:
        raise ValueError(f"{entry} or a module that it imports holds text that would end a script element")
    return script


def _bind(name: str, read: Callable[[str], str], done: dict[str, str], above: Sequence[str]) -> None:
    """Put the modules that `name` imports into `done`, then `name` itself."""
    if name in above:
        raise ValueError(f"modules import each other in a circle: {' → '.join([*above, name])}")
    if name in done:
        return
    lines, exported = [], []
    for line in read(name).splitlines():
        if found := IMPORT.fullmatch(line):
            _bind(found[2], read, done, [*above, name])
            lines.append(f"const {{ {found[1]} }} = modules[{found[2]!r}];")
            continue
        if found := EXPORT.match(line):
            exported.append(found[2])
            line = line.removeprefix("export ")
        if re.match(r"\s*(import|export)\b", line) or "import(" in line:
            raise ValueError(f"{name}: cannot bind {line.strip()!r}; write it as the app's other modules do")
        lines.append(line)
    body = "\n".join(lines)
    done[name] = f"modules[{name!r}] = (() => {{\n{body}\nreturn {{ {', '.join(exported)} }};\n}})();\n"


def packed(data: bytes) -> str:
    """gzip in base64: the same text for the same data."""
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()


def policy(scripts: Sequence[str]) -> str:
    """A content security policy under which these scripts run, nothing else does, and nothing is fetched or sent."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
