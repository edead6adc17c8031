"""The unprivileged user for PostgreSQL, which refuses to run as root."""

import os
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from paybill_embedded.child import ENVIRONMENT
from paybill_embedded.errors import EmbeddedError

_OTHER_USER = 65534

# A user namespace in which root has another user id. It can still enter the 0700 folders on the path to data and
# binaries, and files stay root's, so nothing is copied and no permission is relaxed.
_IN_NAMESPACE = ("unshare", "--user", f"--map-user={_OTHER_USER}", f"--map-group={_OTHER_USER}", "--")
# Most containers forbid namespaces. There the server runs as another user, with the one capability that is needed to
# enter those folders.
_AS_OTHER_USER = (
    *("setpriv", f"--reuid={_OTHER_USER}", f"--regid={_OTHER_USER}", "--clear-groups"),
    *("--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override", "--"),
)


@dataclass(frozen=True, slots=True)
class Unprivileged:
    """prefix: put before a command. uid: required owner of the command's files, as known outside the namespace."""

    prefix: tuple[str, ...]
    uid: int


@cache
def unprivileged(program: Path, data_dir: Path) -> Unprivileged:
    """Returns how to run `program` below `data_dir` as a user other than root; an ordinary user stays unchanged.

    Raises EmbeddedError root_not_possible.
    """
    if os.geteuid() != 0:
        return Unprivileged((), os.geteuid())
    if _works(_IN_NAMESPACE, program, data_dir):
        return Unprivileged(_IN_NAMESPACE, 0)
    if _works(_AS_OTHER_USER, program, data_dir):
        return Unprivileged(_AS_OTHER_USER, _OTHER_USER)
    raise EmbeddedError(
        "root_not_possible",
        "PostgreSQL refuses to run as root, and this root cannot run it as another user",
        "run paybill as an ordinary user",
    )


def _works(prefix: tuple[str, ...], program: Path, data_dir: Path) -> bool:
    """Returns whether such a command is not root to itself, can enter `data_dir` and can run `program`.

    It fails when a folder on the path belongs to an ordinary user, as under `sudo make demo`.
    """
    attempt = ("sh", "-c", 'cd "$1" && "$0" --version >&2 && id -u', str(program), str(data_dir))
    done = subprocess.run([*prefix, *attempt], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.strip() == str(_OTHER_USER)


def set_owner(uid: int, folder: Path) -> None:
    """Makes `uid` the owner of `folder` and everything below it with another owner."""
    for parent, _, names in os.walk(folder):
        for path in (Path(parent), *(Path(parent, name) for name in names)):
            if path.lstat().st_uid != uid:
                os.lchown(path, uid, -1)
