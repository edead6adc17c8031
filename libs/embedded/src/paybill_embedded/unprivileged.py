"""PostgreSQL refuses to run as root: the user that it runs as instead."""

import os
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from paybill_embedded.child import ENVIRONMENT
from paybill_embedded.errors import EmbeddedError

_NOBODY = 65534

# A user namespace in which root goes by another number. It may still enter the 0700 folders on the way to the data and
# the binaries, and files stay root's, so nothing is copied and nothing opened up.
_IN_NAMESPACE = ("unshare", "--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}", "--")
# Containers mostly forbid namespaces. There another user, with the one capability that lets it through those folders.
_AS_NOBODY = (
    *("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"),
    *("--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override", "--"),
)


@dataclass(frozen=True, slots=True)
class Unprivileged:
    """prefix: put before a command. uid: who must own the command's files, as seen from outside."""

    prefix: tuple[str, ...]
    uid: int


@cache
def unprivileged(program: Path, data_dir: Path) -> Unprivileged:
    """How to run `program` below `data_dir` as somebody else than root; an ordinary user stays who it is.

    Raises EmbeddedError root_not_possible.
    """
    if os.geteuid() != 0:
        return Unprivileged((), os.geteuid())
    if _works(_IN_NAMESPACE, program, data_dir):
        return Unprivileged(_IN_NAMESPACE, 0)
    if _works(_AS_NOBODY, program, data_dir):
        return Unprivileged(_AS_NOBODY, _NOBODY)
    raise EmbeddedError(
        "root_not_possible",
        "PostgreSQL refuses to run as root, and this root cannot run it as another user",
        "run paybill as an ordinary user",
    )


def _works(prefix: tuple[str, ...], program: Path, data_dir: Path) -> bool:
    """Whether a command so run is not root to itself, gets into `data_dir` and may run `program`.

    It may not when a folder on the way is an ordinary user's own, as under `sudo make demo`.
    """
    attempt = ("sh", "-c", 'cd "$1" && "$0" --version >&2 && id -u', str(program), str(data_dir))
    done = subprocess.run([*prefix, *attempt], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.strip() == str(_NOBODY)


def give_to(uid: int, folder: Path) -> None:
    """Make `uid` the owner of `folder` and all below it that belongs to somebody else."""
    for parent, _, names in os.walk(folder):
        for path in (Path(parent), *(Path(parent, name) for name in names)):
            if path.lstat().st_uid != uid:
                os.lchown(path, uid, -1)
