"""Checkpoints on a Hugging Face hub: ``hf://owner/name[@revision][/subfolder]``.

Needs ``pip install "fourd4d[hub]"``. The hub, the cache and the token are those of
``huggingface_hub``, which reads ``HF_ENDPOINT`` when it is imported. No message shows a token or an
address that may hold one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from fourd4d.core.errors import InputError

PREFIX: Final = "hf://"
_ADDRESS: Final = re.compile(
    r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/@\s]+))?(?:/(?P<folder>[^@\s]+?))?/?")
# Weights in formats that are not read; downloaded only to be refused, they would cost hours.
_UNREAD: Final = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".ot", ".gguf")


@dataclasses.dataclass(frozen=True)
class Address:
    """A place on the hub.

    Attributes:
      repo: ``owner/name``.
      revision: branch, tag or commit; None for the main branch.
      folder: inside the repository; empty for its root.
    """

    repo: str
    revision: str | None = None
    folder: str = ""

    @staticmethod
    def parse(text: str) -> Address:
        """Raises InputError: it is none, or leads out of the repository."""
        found = _ADDRESS.fullmatch(text)
        folder = PurePosixPath(found["folder"] or "") if found else PurePosixPath("..")
        if found is None or ".." in folder.parts or folder.is_absolute() or any(
                set(part) <= {"."} for part in found["repo"].split("/")):
            raise InputError(text, "it is not an address of a checkpoint on the hub",
                             "Write hf://OWNER/NAME, hf://OWNER/NAME/FOLDER or "
                             "hf://OWNER/NAME@REVISION/FOLDER")
        return Address(found["repo"], found["revision"],
                       "" if folder == PurePosixPath() else str(folder))


def is_address(name: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint's name means one on the hub."""
    return os.fspath(name).startswith(PREFIX)


@functools.cache
def fetched(text: str) -> Path:
    """Downloads a checkpoint, or takes it from the cache; returns its directory.

    Of the folder everything is fetched but weights in formats that are not read.

    Raises:
      InputError: no such repository, revision or folder, no right to read it, no network, or
        pickled weights alone.
    """
    address, hub = Address.parse(text), _library(text)
    below = f"{address.folder}/" if address.folder else ""
    api = hub.HfApi()
    with _told(text, "Check the name, the network and, for a private one, `hf auth login`"):
        info = api.model_info(address.repo, revision=address.revision)
        names = [file.rfilename for file in info.siblings or [] if file.rfilename.startswith(below)]
    if not names:
        raise InputError(text, f"no folder {address.folder!r} in {address.repo}"
                         if address.folder else "an empty repository",
                         "Look at its files on the hub")
    wanted = [name for name in names if not name.endswith(_UNREAD)]
    unread = len(names) - len(wanted)
    if unread and not any(name.endswith(".safetensors") for name in names) and any(
            name.endswith(_UNREAD[:4]) for name in names):
        raise InputError(text, "its weights are pickled, which is not opened",
                         "Convert it with transformers: save_pretrained(…, "
                         "safe_serialization=True)")
    with _told(text, "Try again: what was fetched is kept"):
        # By the commit: all files are of one state of the repository.
        root = hub.snapshot_download(
            address.repo, revision=info.sha,
            allow_patterns=[_literal(name) for name in wanted])
    return Path(root) / address.folder


def check_push(text: str) -> Address:
    """Where ``push`` would write. Raises InputError: no address, no library, nobody logged in."""
    address = Address.parse(text if is_address(text) else f"{PREFIX}{text}")
    api = _library(text).HfApi()
    with _told(text, "Log in with `hf auth login`, or set HF_TOKEN"):
        api.whoami()
    return address


def push(directory: str | os.PathLike[str], address: Address, *, private: bool = True,
         message: str = "Upload a fourd4d checkpoint") -> str:
    """Uploads a directory as one commit, into a repository that is made if absent.

    Args:
      private: of a repository that is made; one that exists stays as it is.

    Returns:
      The new commit.

    Raises:
      InputError: no right to write there, or no network.
    """
    name = f"{PREFIX}{address.repo}"
    api = _library(name).HfApi()
    with _told(name, "Check that you may write there, and the network"):
        api.create_repo(address.repo, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=address.repo, folder_path=os.fspath(directory), commit_message=message,
            path_in_repo=address.folder or None, revision=address.revision)
    return str(done.oid)


def _literal(name: str) -> str:
    """A pattern that matches one name alone."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def _library(where: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError(where, "huggingface_hub is not installed",
                         'Install "fourd4d[hub]"') from error
    return huggingface_hub


@contextlib.contextmanager
def _told(where: str, remedy: str) -> Iterator[None]:
    """What the hub or the network refuses becomes an InputError that quotes no request."""
    from huggingface_hub import errors

    try:
        yield
    except InputError:
        raise
    except errors.GatedRepoError:
        what = "its owner grants access one by one"
    except errors.RevisionNotFoundError:
        what = "no such revision"
    except errors.RepositoryNotFoundError:
        what = "no such repository, or no right to see it"
    except errors.LocalEntryNotFoundError:
        what = "the hub cannot be reached, and the cache does not hold it"
    except errors.LocalTokenNotFoundError:
        what = "nobody is logged in"
    except Exception as error:  # Of the hub, the network (below 1.0 by requests) or the disk.
        if not isinstance(error, OSError | errors.HfHubHTTPError) and (
                type(error).__module__.partition(".")[0] not in ("httpx", "httpcore", "requests")):
            raise
        # After its last try the library raises the plain error of its HTTP client.
        status = getattr(getattr(error, "response", None), "status_code", None)
        what = (f"the hub answers {status}" if status is not None
                else f"{type(error).__name__} on the way")
    else:
        return
    raise InputError(where, what, remedy) from None
