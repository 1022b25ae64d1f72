"""`edgearte push`: a bundle, whole and as it was checked, onto the Hugging Face Hub."""

from __future__ import annotations

import json
import re
from pathlib import Path

from edgearte import __version__
from edgearte.convert.bundle import MANIFEST, verify_bundle
from edgearte.errors import Problem, UserError
from edgearte.lm.weights import HUB_ID


def push(bundle: Path, repo: str, *, private: bool, dry_run: bool) -> int:
    """Upload a bundle as the model repository `repo` (owner/name), which is made where it is not there yet; a `dry_run` shows what would
    go, and asks nobody.

    Raises `UserError` for a bundle that is not what its manifest says, and where the hub refuses.
    """
    if not re.fullmatch(HUB_ID, repo):
        raise UserError(f"{repo!r}: a repository on the hub is called owner/name")
    if wrong := verify_bundle(bundle):
        raise UserError([Problem(text, str(bundle)) for text in wrong])
    _show(bundle, repo, private)
    if dry_run:
        print("dry run: nothing was sent")
        return 0
    from huggingface_hub import HfApi
    from huggingface_hub.errors import LocalTokenNotFoundError

    try:
        api = HfApi(library_name="edgearte", library_version=__version__)
        api.create_repo(repo, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=repo, folder_path=bundle, commit_message=f"Bundle made by edgearte {__version__}")
    except LocalTokenNotFoundError as error:
        raise UserError(f"{repo}: the hub wants to know who you are: `hf auth login`") from error
    except Exception as error:  # the hub client raises the errors of whichever HTTP library it is built on
        why = str(error).splitlines()[0]
        raise UserError(f"{repo}: the hub did not take it: {why}; run again, what is there is not sent twice") from error
    print(done.commit_url)
    return 0


def _show(bundle: Path, repo: str, private: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    files = json.loads((bundle / MANIFEST).read_text("utf-8"))["files"]
    sizes = {**{path: int(f["bytes"]) for path, f in files.items()}, MANIFEST: (bundle / MANIFEST).stat().st_size}
    table = Table("file", "MB", title=f"{bundle} to {repo}{', private' if private else ''}", title_justify="left", box=None, pad_edge=False)
    for path, size in sorted(sizes.items()):
        table.add_row(path, f"{size / 1e6:.2f}")
    table.add_row(f"{len(sizes)} files", f"{sum(sizes.values()) / 1e6:.2f}")
    Console().print(table)
